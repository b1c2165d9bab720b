package suite

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	controlapi "github.com/synadia-io/nex/control-api"

	"nexconformance/harness"
)

func lameDuck(t *testing.T, version Version) {
	w := New(t, version, nil)
	w.Deploy(t, Script("before", harness.EchoScript, "duck.before"))
	events := w.Events(t, namespace)
	entered, err := w.Client(namespace).EnterLameDuck(w.Node.ID)
	check(t, err)
	if !entered.Success || entered.NodeId != w.Node.ID {
		t.Errorf("entered: %+v", entered)
	}
	var event controlapi.LameDuckEnteredEvent
	events.Next(t, controlapi.LameDuckEnteredEventType, &event)

	_, err = w.Client(namespace).StartWorkload(w.Request(t, Script("after", harness.EchoScript, "duck.after")))
	w.Refused(t, "a deploy", err, "Node is in lame duck mode. Workload deploy request denied")
	bids, nodes := askAll(t, w, []*controlapi.AuctionRequest{nil}, w.Scatter(namespace).Auction)
	if len(nodes) != 1 || nodes[0].Tags[controlapi.TagLameDuck] != "true" {
		t.Errorf("PING: %+v", nodes)
	}
	if len(bids[0]) != 0 {
		t.Errorf("a bid for what would be refused: %+v", bids)
	}
	// What ran goes on for a while.
	if reply := w.Call(t, "duck.before", []byte("still here")); string(reply) != "still here" {
		t.Errorf("got %q", reply)
	}
}

func lameDuckLeaves(t *testing.T, version Version) {
	w := New(t, version, map[string]any{"lame_duck_ms": 300})
	w.Deploy(t, Service(t, "service"))
	events := w.Events(t, namespace)
	_, err := w.Client(namespace).EnterLameDuck(w.Node.ID)
	check(t, err)
	events.Next(t, controlapi.LameDuckEnteredEventType, nil)
	var undeployed controlapi.WorkloadUndeployedEvent
	events.Next(t, controlapi.WorkloadUndeployedEventType, &undeployed)
	if undeployed.Name != "service" {
		t.Errorf("undeployed: %+v", undeployed)
	}
	var stopped controlapi.NodeStoppedEvent
	events.Next(t, controlapi.NodeStoppedEventType, &stopped)
	if !stopped.Graceful {
		t.Errorf("stopped: %+v", stopped)
	}
	if status := w.Node.Exit(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

func lameDuckRefused(t *testing.T, version Version) {
	issuer := Account(t)
	w := New(t, version, map[string]any{"valid_issuers": []string{public(t, issuer)}, "lame_duck_ms": 1})
	w.Issuer = issuer
	_, err := w.Client(namespace).EnterLameDuck(w.Node.ID)
	w.Refused(t, "an order without a claim", err, "Failed to enter lame duck mode: this node takes signed orders only")
	info, err := w.Client(namespace).NodeInfo(w.Node.ID)
	check(t, err)
	checkTags(t, info.Tags)
	w.Deploy(t, Script("goes-on", harness.EchoScript, "duck.goes-on"))
	w.Call(t, "duck.goes-on", nil)
	if !w.Node.Running() {
		t.Error("the node left")
	}
}

func lameDuckElsewhere(t *testing.T, version Version) {
	w := New(t, version, map[string]any{"lame_duck_ms": 1})
	key, err := nkeys.CreateServer()
	check(t, err)
	if _, err := w.Client(namespace).EnterLameDuck(public(t, key)); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a node that does not exist: got error %v", err)
	}
	// The order was not for this node.
	info, err := w.Client(namespace).NodeInfo(w.Node.ID)
	check(t, err)
	checkTags(t, info.Tags)
}
