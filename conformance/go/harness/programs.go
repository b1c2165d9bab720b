package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// EchoScript is a JavaScript function that answers with the very bytes it was sent.
const EchoScript = "(subject, payload) => payload"

var builds struct {
	mutex sync.Mutex
	done  map[string][]byte
}

// Failed is the exit status of Service after the signal USR1.
const Failed = 3

// Service is a native program that prints its process id, arguments and environment, and waits.
func Service(t testing.TB) []byte {
	t.Helper()
	return build(t, "service", "CGO_ENABLED=0")
}

// Echo is a WASI preview 1 module that answers with its subject, the variable CONFORMANCE and what it was sent.
func Echo(t testing.TB) []byte {
	t.Helper()
	return build(t, "echo", "GOOS=wasip1", "GOARCH=wasm")
}

// build compiles a program of this module, once for all tests.
func build(t testing.TB, name string, environment ...string) []byte {
	t.Helper()
	builds.mutex.Lock()
	defer builds.mutex.Unlock()
	if program, ok := builds.done[name]; ok {
		return program
	}
	path := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "nexconformance/harness/programs/"+name)
	cmd.Env = append(os.Environ(), environment...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v\n%s", name, err, text)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if builds.done == nil {
		builds.done = make(map[string][]byte)
	}
	builds.done[name] = program
	return program
}
