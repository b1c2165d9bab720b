package suite

import (
	"slices"
	"testing"

	controlapi "github.com/synadia-io/nex/control-api"

	"nexconformance/harness"
)

func auctionOfSeveral(t *testing.T, version Version) {
	w := New(t, version, nil)
	start := func(tags map[string]string, types ...string) *harness.Node {
		t.Helper()
		return harness.StartNode(t, w.Server, map[string]any{"tags": tags, "workload_types": types})
	}
	green := w.Node
	red := start(map[string]string{"color": "red"}, "native", "v8")
	small := start(map[string]string{"color": "red", "size": "s"}, "wasm")
	tests := []struct {
		what    string
		request *controlapi.AuctionRequest
		bidders []*harness.Node
	}{
		{"everybody", nil, []*harness.Node{green, red, small}},
		{"a tag of two", &controlapi.AuctionRequest{Tags: map[string]string{"color": "red"}}, []*harness.Node{red, small}},
		{"a tag of one", &controlapi.AuctionRequest{Tags: map[string]string{"size": "s"}}, []*harness.Node{small}},
		{"a type of two", &controlapi.AuctionRequest{
			WorkloadTypes: []controlapi.NexWorkload{"wasm"},
		}, []*harness.Node{green, small}},
		{"a tag and a type", &controlapi.AuctionRequest{
			Tags: map[string]string{"color": "red"}, WorkloadTypes: []controlapi.NexWorkload{"native"},
		}, []*harness.Node{red}},
		{"a tag of nobody", &controlapi.AuctionRequest{Tags: map[string]string{"color": "blue"}}, nil},
	}
	var requests []*controlapi.AuctionRequest
	for _, test := range tests {
		requests = append(requests, test.request)
	}
	answers, _ := askAll(t, w, requests, w.Scatter(namespace).Auction)
	for i, test := range tests {
		checkBidders(t, test.what, answers[i], test.bidders...)
	}
}

func checkBidders(t *testing.T, what string, bids []controlapi.AuctionResponse, nodes ...*harness.Node) {
	t.Helper()
	var got, want []string
	for _, bid := range bids {
		got = append(got, bid.NodeId)
	}
	for _, node := range nodes {
		want = append(want, node.ID)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got bids of %v, want those of %v", what, got, want)
	}
}

func fullNode(t *testing.T, version Version) {
	w := New(t, version, map[string]any{"node_limits": map[string]any{"max_workloads": 1}})
	other := harness.StartNode(t, w.Server, nil)
	run := w.Deploy(t, Script("first", harness.EchoScript, "full.first"))
	_, err := w.Client(namespace).StartWorkload(w.Request(t, Script("second", harness.EchoScript, "full.second")))
	w.Refused(t, "a second workload", err, "Node is at maximum workload limit. Deploy request denied")
	everybody := []*controlapi.AuctionRequest{nil}
	answers, _ := askAll(t, w, everybody, w.Scatter(namespace).Auction)
	checkBidders(t, "while the node is full", answers[0], other)
	w.Stop(t, run)
	answers, _ = askAll(t, w, everybody, w.Scatter(namespace).Auction)
	checkBidders(t, "when it has room again", answers[0], w.Node, other)
}
