// Package harness starts what the conformance tests need: a nats-server, our node on it, and programs to deploy.
package harness

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// root is the folder of the repository, above the folder that the test runs in.
func root(t testing.TB) string {
	t.Helper()
	folder, err := findRoot()
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

func findRoot() (string, error) {
	folder, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if isFile(filepath.Join(folder, "Cargo.toml")) && isFile(filepath.Join(folder, "conformance/go/README.md")) {
			return folder, nil
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return "", errors.New("the tests do not run inside the repository")
		}
		folder = parent
	}
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// natsServer is the server to test on.
func natsServer(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("NATS_SERVER"); path != "" {
		return path
	}
	if path := filepath.Join(root(t), ".tools/bin/nats-server"); isFile(path) {
		return path
	}
	path, err := exec.LookPath("nats-server")
	if err != nil {
		t.Fatal("no nats-server: `cargo xtask setup` installs one, or name one in NATS_SERVER")
	}
	return path
}

// environment is what a node gets of ours: nothing that the person at the keyboard has set up for nex and NATS.
func environment(t testing.TB) []string {
	t.Helper()
	var kept []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		settings := strings.HasPrefix(name, "NEX_") || strings.HasPrefix(name, "NATS_")
		if settings && name != "NEX_DENO" || name == "PATH" || name == "HOME" || name == "XDG_CONFIG_HOME" {
			continue
		}
		kept = append(kept, variable)
	}
	// The node looks for Deno on its path.
	path := filepath.Join(root(t), ".tools/bin") + string(os.PathListSeparator) + os.Getenv("PATH")
	return append(kept, "PATH="+path)
}
