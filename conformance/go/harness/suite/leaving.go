package suite

import (
	"testing"

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
	if err == nil || err.Error() != "Node is in lame duck mode. Workload deploy request denied" {
		t.Errorf("a deploy: got error %v", err)
	}
	nodes, err := w.Scatter(namespace).PingNodes()
	check(t, err)
	if len(nodes) != 1 || nodes[0].Tags[controlapi.TagLameDuck] != "true" {
		t.Errorf("PING: %+v", nodes)
	}
	bids, err := w.Scatter(namespace).Auction(nil)
	check(t, err)
	if len(bids) != 0 {
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
	if entered, err := w.Client(namespace).EnterLameDuck(w.Node.ID); err == nil {
		t.Errorf("an order without a claim was followed: %+v", entered)
	}
	w.Deploy(t, Script("goes-on", harness.EchoScript, "duck.goes-on"))
	w.Call(t, "duck.goes-on", nil)
	if !w.Node.Running() {
		t.Error("the node left")
	}
}
