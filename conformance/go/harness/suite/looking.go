package suite

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	controlapi "github.com/synadia-io/nex/control-api"

	"nexconformance/harness"
)

func pingNodes(t *testing.T, version Version) {
	w := New(t, version, nil)
	other := harness.StartNode(t, w.Server, nil)
	w.Deploy(t, Script("echo", harness.EchoScript, "ping.echo"))
	nodes, err := w.Scatter(namespace).PingNodes()
	check(t, err)
	running := make(map[string]int)
	for _, node := range nodes {
		running[node.NodeId] = node.RunningMachines
		checkNode(t, node)
	}
	if len(nodes) != 2 || running[w.Node.ID] != 1 || running[other.ID] != 0 {
		t.Errorf("got %+v, want nodes %s with one machine and %s with none", nodes, w.Node.ID, other.ID)
	}
}

func checkNode(t *testing.T, node controlapi.PingResponse) {
	t.Helper()
	if !nkeys.IsValidPublicServerKey(node.NodeId) || !nkeys.IsValidPublicCurveKey(node.TargetXkey) {
		t.Errorf("keys of the node: %+v", node)
	}
	if node.Version == "" || node.Uptime == "" || node.Nexus == "" {
		t.Errorf("a node has version, uptime and nexus: %+v", node)
	}
	checkTags(t, node.Tags)
}

func checkTags(t *testing.T, tags map[string]string) {
	t.Helper()
	want := map[string]string{
		controlapi.TagOS:     runtime.GOOS,
		controlapi.TagArch:   runtime.GOARCH,
		controlapi.TagUnsafe: "true",
	}
	for tag, value := range want {
		if tags[tag] != value {
			t.Errorf("tag %s: got %q, want %q", tag, tags[tag], value)
		}
	}
	if tags[controlapi.TagCPUs] == "" {
		t.Errorf("no tag %s", controlapi.TagCPUs)
	}
	// Go Nex sets it when the node enters the mode, and not before.
	if tags[controlapi.TagLameDuck] == "true" {
		t.Errorf("a lame duck: %v", tags)
	}
}

func pingWorkloads(t *testing.T, version Version) {
	w := New(t, version, map[string]any{"machine_pool_size": 3})
	one := w.Deploy(t, Script("one", harness.EchoScript, "wping.one"))
	two := w.Deploy(t, Script("two", harness.EchoScript+"//", "wping.two"))
	there := w.DeployIn(t, "elsewhere", Script("three", harness.EchoScript, "wping.three"))
	type question struct {
		what, namespace, asked string
		want                   []string
	}
	tests := []question{
		{"by namespace", namespace, "", []string{one.ID, two.ID}},
		{"by another namespace", "elsewhere", "", []string{there.ID}},
		{"by id", namespace, one.ID, []string{one.ID}},
		{"by name", namespace, "two", []string{two.ID}},
		{"by a name in other letters", namespace, "TWO", []string{two.ID}},
		{"by an unknown name", namespace, "nobody", nil},
		{"by an id of another namespace", namespace, there.ID, nil},
		{"by a namespace without workloads", "empty", "", nil},
	}
	found, _ := askAll(t, w, tests, func(test question) ([]controlapi.WorkloadPingResponse, error) {
		return w.Scatter(test.namespace).PingWorkloads(test.asked)
	})
	for i, test := range tests {
		t.Run(test.what, func(t *testing.T) {
			answers := found[i]
			if test.want == nil {
				if len(answers) != 0 {
					t.Errorf("got %+v, want no answer", answers)
				}
				return
			}
			if len(answers) != 1 {
				t.Fatalf("got %d answers, want 1", len(answers))
			}
			answer := answers[0]
			if answer.NodeId != w.Node.ID || answer.TargetXkey != w.Node.XKey || answer.Version == "" || answer.Uptime == "" {
				t.Errorf("not our node: %+v", answer)
			}
			checkTags(t, answer.Tags)
			var ids []string
			for _, machine := range answer.RunningMachines {
				ids = append(ids, machine.Id)
				if machine.Namespace != test.namespace || machine.Name == "" || machine.WorkloadType != controlapi.NexWorkloadV8 {
					t.Errorf("machine: %+v", machine)
				}
			}
			slices.Sort(ids)
			slices.Sort(test.want)
			if !slices.Equal(ids, test.want) {
				t.Errorf("got %v, want %v", ids, test.want)
			}
		})
	}
}

func nodeInfo(t *testing.T, version Version) {
	w := New(t, version, map[string]any{"machine_pool_size": 2})
	run := w.Deploy(t, Service(t, "seen"))
	w.DeployIn(t, "elsewhere", Script("unseen", harness.EchoScript, "info.unseen"))
	info, err := w.Client(namespace).NodeInfo(w.Node.ID)
	check(t, err)
	if info.Version == "" || info.Uptime == "" || info.PublicXKey != w.Node.XKey {
		t.Errorf("version, uptime and key of the node: %+v", info)
	}
	checkTags(t, info.Tags)
	if info.Tags["color"] != "Green" {
		t.Errorf("a tag of the configuration: %v", info.Tags)
	}
	if memory := info.Memory; memory == nil || memory.MemTotal <= 0 || memory.MemFree <= 0 || memory.MemAvailable <= 0 {
		t.Errorf("memory: %+v", memory)
	}
	types := slices.Clone(info.SupportedWorkloadTypes)
	slices.Sort(types)
	if !slices.Equal(types, []controlapi.NexWorkload{"native", "v8", "wasm"}) {
		t.Errorf("types: %v", info.SupportedWorkloadTypes)
	}
	if len(info.Machines) != 1 {
		t.Fatalf("machines of the namespace: %+v", info.Machines)
	}
	machine := info.Machines[0]
	if machine.Id != run.ID || !machine.Healthy || machine.Uptime == "" || machine.Namespace != namespace {
		t.Errorf("machine: %+v", machine)
	}
	workload := machine.Workload
	if workload.Name != "seen" || workload.Description != "of the conformance suite" || workload.Runtime == "" ||
		workload.WorkloadType != controlapi.NexWorkloadNative || workload.Hash != w.Put(t, "again", harness.Service(t)) {
		t.Errorf("workload: %+v", workload)
	}
	version.CheckInfo(t, info, run)

	key, err := nkeys.CreateServer()
	check(t, err)
	if _, err := w.Client(namespace).NodeInfo(public(t, key)); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("a node that does not exist: got error %v", err)
	}
}

func auction(t *testing.T, version Version) {
	w := New(t, version, map[string]any{"workload_types": []string{"native", "wasm"}})
	text := func(text string) *string { return &text }
	truth := func(truth bool) *bool { return &truth }
	type question struct {
		what    string
		request *controlapi.AuctionRequest
		fits    bool
	}
	tests := []question{
		{"no request", nil, true},
		{"no constraint", &controlapi.AuctionRequest{}, true},
		{"arch", &controlapi.AuctionRequest{Arch: text(runtime.GOARCH)}, true},
		{"arch in other letters", &controlapi.AuctionRequest{Arch: text(strings.ToUpper(runtime.GOARCH))}, true},
		{"another arch", &controlapi.AuctionRequest{Arch: text("mips")}, false},
		{"os", &controlapi.AuctionRequest{OS: text(runtime.GOOS)}, true},
		{"another os", &controlapi.AuctionRequest{OS: text("plan9")}, false},
		{"without sandbox", &controlapi.AuctionRequest{Sandboxed: truth(false)}, true},
		{"with sandbox", &controlapi.AuctionRequest{Sandboxed: truth(true)}, false},
		{"tag", &controlapi.AuctionRequest{Tags: map[string]string{"color": "green"}}, true},
		{"tag with another value", &controlapi.AuctionRequest{Tags: map[string]string{"color": "red"}}, false},
		{"unknown tag", &controlapi.AuctionRequest{Tags: map[string]string{"color": "green", "size": "s"}}, false},
		{"type", &controlapi.AuctionRequest{WorkloadTypes: []controlapi.NexWorkload{"wasm", "native"}}, true},
		{"a type too many", &controlapi.AuctionRequest{WorkloadTypes: []controlapi.NexWorkload{"wasm", "v8"}}, false},
		{"all together", &controlapi.AuctionRequest{
			Arch: text(runtime.GOARCH), OS: text(runtime.GOOS), Sandboxed: truth(false),
			Tags: map[string]string{"color": "green"}, WorkloadTypes: []controlapi.NexWorkload{"native"},
		}, true},
		{"all but one", &controlapi.AuctionRequest{
			Arch: text(runtime.GOARCH), OS: text("plan9"), Sandboxed: truth(false),
			Tags: map[string]string{"color": "green"}, WorkloadTypes: []controlapi.NexWorkload{"native"},
		}, false},
	}
	answers, _ := askAll(t, w, tests, func(test question) ([]controlapi.AuctionResponse, error) {
		return w.Scatter(namespace).Auction(test.request)
	})
	for i, test := range tests {
		t.Run(test.what, func(t *testing.T) {
			bids := answers[i]
			if !test.fits {
				if len(bids) != 0 {
					t.Errorf("got %+v, want no bid", bids)
				}
				return
			}
			if len(bids) != 1 || bids[0].NodeId != w.Node.ID {
				t.Fatalf("got %+v, want one bid of %s", bids, w.Node.ID)
			}
			checkNode(t, controlapi.PingResponse(bids[0]))
		})
	}
}
