package suite

import (
	"strings"
	"syscall"
	"testing"

	controlapi "github.com/synadia-io/nex/control-api"

	"nexconformance/harness"
)

// functionExecSucceeded is an event that the library has no type for.
type functionExecSucceeded struct {
	Name      string `json:"workload_name"`
	Subject   string `json:"trigger_subject"`
	Elapsed   int64  `json:"elapsed_nanos"`
	Namespace string `json:"namespace"`
}

func workloadEvents(t *testing.T, version Version) {
	w := New(t, version, nil)
	events := w.Events(t, namespace)
	// Nothing of other namespaces is reported.
	w.DeployIn(t, "elsewhere", Script("unseen", harness.EchoScript, "events.unseen"))
	run := w.Deploy(t, Script("echo", harness.EchoScript, "events.echo"))
	var deployed controlapi.WorkloadDeployedEvent
	event := events.Next(t, controlapi.WorkloadDeployedEventType, &deployed)
	if deployed.Name != "echo" || deployed.TotalBytes != len(harness.EchoScript) {
		t.Errorf("deployed: %+v", deployed)
	}
	if event.Namespace != namespace || event.Extensions()[controlapi.EventExtensionNamespace] != namespace {
		t.Errorf("namespace of the event: %v", event)
	}
	if !strings.HasPrefix(event.Source(), w.Node.ID) {
		t.Errorf("source: %s", event.Source())
	}
	version.CheckDeployed(t, deployed, run)

	w.Call(t, "events.echo", []byte("hello"))
	var succeeded functionExecSucceeded
	events.Next(t, "function_exec_succeeded", &succeeded)
	if succeeded.Name != "echo" || succeeded.Subject != "events.echo" || succeeded.Elapsed <= 0 || succeeded.Namespace != namespace {
		t.Errorf("succeeded: %+v", succeeded)
	}

	w.Stop(t, run)
	var undeployed controlapi.WorkloadUndeployedEvent
	events.Next(t, controlapi.WorkloadUndeployedEventType, &undeployed)
	if undeployed.Name != "echo" || undeployed.Message == "" {
		t.Errorf("undeployed: %+v", undeployed)
	}
	version.CheckUndeployed(t, undeployed, run)

	// Events keep their order: what should not come would have come before this one.
	_, err := w.Client(namespace).EnterLameDuck(w.Node.ID)
	check(t, err)
	events.Next(t, controlapi.LameDuckEnteredEventType, nil)
	for kind, count := range events.counts() {
		// Heartbeats come by the clock.
		if count != 1 && kind != controlapi.HeartbeatEventType {
			t.Errorf("%s came %d times", kind, count)
		}
	}
}

func nodeEvents(t *testing.T, version Version) {
	w := New(t, version, nil)
	events := w.Events(t, namespace)
	node := harness.StartNode(t, w.Server, nil)
	var (
		started   controlapi.NodeStartedEvent
		heartbeat controlapi.HeartbeatEvent
		lameDuck  controlapi.LameDuckEnteredEvent
		stopped   controlapi.NodeStoppedEvent
	)
	event := events.NextFrom(t, node.ID, controlapi.NodeStartedEventType, &started)
	if event.Namespace != "system" || event.Source() != node.ID || started.Version == "" {
		t.Errorf("started: %v", event)
	}
	checkTags(t, started.Tags)
	events.NextFrom(t, node.ID, controlapi.HeartbeatEventType, &heartbeat)
	if heartbeat.Version == "" || heartbeat.Uptime == "" || heartbeat.Nexus == "" || heartbeat.RunningMachines != 0 {
		t.Errorf("heartbeat: %+v", heartbeat)
	}
	checkTags(t, heartbeat.Tags)
	version.CheckHeartbeat(t, heartbeat, node.ID)
	_, err := w.Client(namespace).EnterLameDuck(node.ID)
	check(t, err)
	events.NextFrom(t, node.ID, controlapi.LameDuckEnteredEventType, &lameDuck)
	if lameDuck.Version == "" {
		t.Errorf("lame duck: %+v", lameDuck)
	}
	node.Signal(t, syscall.SIGTERM)
	events.NextFrom(t, node.ID, controlapi.NodeStoppedEventType, &stopped)
	if !stopped.Graceful {
		t.Errorf("stopped: %+v", stopped)
	}
	if ids := version.NodeIDs(started, lameDuck, stopped); ids != [3]string{node.ID, node.ID, node.ID} {
		t.Errorf("nodes of the events: %v, want %s", ids, node.ID)
	}
	if status := node.Exit(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

func monitorAll(t *testing.T, version Version) {
	w := New(t, version, nil)
	events, logs := w.AllEvents(t), w.AllLogs(t)
	for _, namespace := range []string{"one", "two"} {
		run := w.DeployIn(t, namespace, Service(t, namespace))
		var deployed controlapi.WorkloadDeployedEvent
		if event := events.Next(t, controlapi.WorkloadDeployedEventType, &deployed); event.Namespace != namespace {
			t.Errorf("got an event of %s, want one of %s", event.Namespace, namespace)
		}
		if _, entry := logs.Next(t, "pid="); entry.Namespace != namespace || entry.Workload != run.ID {
			t.Errorf("got %+v, want an entry of %s in %s", entry, run.ID, namespace)
		}
	}
}
