package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

var nodes atomic.Int32

// A Node is our node.
type Node struct {
	*Process
	ID   string
	XKey string
}

// StartNode starts our node on the server and waits until it answers. The configuration is laid on one for tests.
func StartNode(t testing.TB, server *Server, config map[string]any) *Node {
	t.Helper()
	if nex == "" {
		t.Fatal("the package has no TestMain that calls harness.Main")
	}
	// Several nodes may be on one server: each is known by its name.
	name := fmt.Sprintf("conformance-%d", nodes.Add(1))
	tags := map[string]string{"color": "Green"}
	if more, ok := config["tags"].(map[string]string); ok {
		maps.Copy(tags, more)
	}
	tags["node_name"] = name
	all := map[string]any{
		"no_sandbox":        true,
		"workload_types":    []string{"native", "v8", "wasm"},
		"machine_pool_size": 1,
	}
	maps.Copy(all, config)
	all["tags"] = tags
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	path := filepath.Join(folder, "node.json")
	write(t, path, text)
	cmd := exec.Command(nex, "node", "up", "--no-sandbox", "--config", path, "--state-dir", filepath.Join(folder, "state"))
	cmd.Env = append(environment(t), "HOME="+folder, "NEX_HOME="+filepath.Join(folder, "home"), "NATS_URL="+server.URL)
	node := &Node{Process: spawn(t, name, cmd)}
	Eventually(t, name+" answers", func() bool {
		if !node.Running() {
			t.Fatalf("%s ended at its start", name)
		}
		return node.ping(t, server, name)
	})
	return node
}

// ping asks all nodes who they are, in our own words: the library is under test, and waits its whole time.
func (n *Node) ping(t testing.TB, server *Server, name string) bool {
	t.Helper()
	inbox := server.Conn.NewRespInbox()
	answers, err := server.Conn.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answers.Unsubscribe() }()
	if err := server.Conn.PublishRequest("$NEX.PING", inbox, nil); err != nil {
		t.Fatal(err)
	}
	for {
		answer, err := answers.NextMsg(250 * time.Millisecond)
		if errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		var ping struct {
			Data struct {
				ID   string            `json:"node_id"`
				XKey string            `json:"target_xkey"`
				Tags map[string]string `json:"tags"`
			} `json:"data"`
		}
		if json.Unmarshal(answer.Data, &ping) == nil && ping.Data.Tags["node_name"] == name {
			n.ID, n.XKey = ping.Data.ID, ping.Data.XKey
			return true
		}
	}
}
