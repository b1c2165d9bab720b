package harness

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Bucket is the object store that artifacts are put into.
const Bucket = "CONFORMANCE"

// A Server is a nats-server with JetStream and a connection to it.
type Server struct {
	URL  string
	Conn *nats.Conn
}

// StartServer starts a nats-server on a port of its own choice. More of a server configuration may be given.
func StartServer(t testing.TB, snippets ...string) *Server {
	t.Helper()
	url := startServer(t, snippets...)
	return &Server{URL: url, Conn: connect(t, url)}
}

func startServer(t testing.TB, snippets ...string) string {
	t.Helper()
	folder := t.TempDir()
	config := filepath.Join(folder, "server.conf")
	text := "jetstream: enabled\n"
	for _, snippet := range snippets {
		text += snippet + "\n"
	}
	write(t, config, []byte(text))
	ports := filepath.Join(folder, "ports")
	if err := os.Mkdir(ports, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(natsServer(t), "--config", config, "--addr", "127.0.0.1", "--port", "-1",
		"--store_dir", filepath.Join(folder, "data"), "--ports_file_dir", ports)
	process := spawn(t, "nats-server", cmd)
	var url string
	Eventually(t, "nats-server is ready", func() bool {
		if !process.Running() {
			t.Fatal("nats-server ended at its start")
		}
		url = portsFile(ports)
		return url != ""
	})
	return url
}

// portsFile reads the address from the file that the server writes when it listens; empty when it is not there yet.
func portsFile(folder string) string {
	files, err := filepath.Glob(filepath.Join(folder, "*.ports"))
	if err != nil || len(files) == 0 {
		return ""
	}
	text, err := os.ReadFile(files[0])
	var ports struct {
		Nats []string `json:"nats"`
	}
	// A file that is half written is read again.
	if err != nil || json.Unmarshal(text, &ports) != nil || len(ports.Nats) == 0 {
		return ""
	}
	return ports.Nats[0]
}

// connect gives a connection that is closed at the end of the test.
func connect(t testing.TB, url string, options ...nats.Option) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(url, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// Put uploads an artifact under a key; gives its SHA-256, hex.
func (s *Server) Put(t testing.TB, key string, artifact []byte) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	js, err := jetstream.New(s.Conn)
	if err != nil {
		t.Fatal(err)
	}
	store, err := js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: Bucket})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutBytes(ctx, key, artifact); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(artifact)
	return hex.EncodeToString(sum[:])
}

// Call sends a request to a function and gives its reply.
func (s *Server) Call(t testing.TB, subject string, payload []byte) []byte {
	t.Helper()
	reply, failure := s.call(t, subject, payload)
	if failure != "" {
		t.Fatalf("%s: %s", subject, failure)
	}
	return reply
}

// CallFailing sends a request to a function that fails and gives the reason that it is told.
func (s *Server) CallFailing(t testing.TB, subject string) string {
	t.Helper()
	reply, failure := s.call(t, subject, nil)
	if failure == "" {
		t.Fatalf("%s did not fail: %q", subject, reply)
	}
	return failure
}

func (s *Server) call(t testing.TB, subject string, payload []byte) (reply []byte, failure string) {
	t.Helper()
	message, err := s.Conn.Request(subject, payload, patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	return message.Data, message.Header.Get("Nats-Service-Error")
}

// Sync waits until the server has handled what was sent before, subscriptions among it.
func (s *Server) Sync(t testing.TB) {
	t.Helper()
	if err := s.Conn.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
}

// Eventually waits for what no message tells.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
