package suite

import (
	"log/slog"
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

	// What should not come would come before the events of another workload: those of one namespace keep their order.
	// It is called too, for the node lets events of workloads go before those of calls.
	w.Deploy(t, Script("later", harness.EchoScript, "events.later"))
	w.Call(t, "events.later", nil)
	for succeeded.Name != "later" {
		events.Next(t, "function_exec_succeeded", &succeeded)
	}
	events.checkOnce(t, func(event controlapi.EmittedEvent) bool {
		var about struct {
			Name string `json:"workload_name"`
		}
		return event.Namespace == namespace && event.DataAs(&about) == nil && about.Name == "echo"
	})
}

// functionExecFailed is another.
type functionExecFailed struct {
	Name      string `json:"workload_name"`
	Subject   string `json:"trigger_subject"`
	Namespace string `json:"namespace"`
	Error     string `json:"error"`
}

func functionFails(t *testing.T, version Version) {
	w := New(t, version, nil)
	events := w.Events(t, namespace)
	logs := w.Logs(t, namespace, "*", "*", "*")
	const reason = "no such order"
	run := w.Deploy(t, Script("fails", `() => { throw new Error("`+reason+`"); }`, "events.fails"))
	if text := w.CallFailing(t, "events.fails"); !strings.Contains(text, reason) {
		t.Errorf("the caller is told %q", text)
	}
	var failed functionExecFailed
	event := events.Next(t, "function_exec_failed", &failed)
	if failed.Name != "fails" || failed.Subject != "events.fails" || failed.Namespace != namespace || event.Namespace != namespace {
		t.Errorf("failed: %+v", failed)
	}
	if !strings.Contains(failed.Error, reason) {
		t.Errorf("error: %q", failed.Error)
	}
	text, entry := logs.Next(t, "call on events.fails failed: ")
	if !strings.Contains(text, reason) || entry.Level != slog.LevelError || entry.Workload != run.ID {
		t.Errorf("log: %+v", entry)
	}
}

func serviceCrashes(t *testing.T, version Version) {
	w := New(t, version, nil)
	events := w.Events(t, namespace)
	for _, test := range []struct {
		name    string
		signal  syscall.Signal
		code    int
		message string
	}{
		{"failed", syscall.SIGUSR1, harness.Failed, "exited with status 3"},
		{"killed", syscall.SIGKILL, -1, "ended by signal 9 (SIGKILL)"},
	} {
		logs := w.Logs(t, namespace, "*", "*", test.name)
		run := w.Deploy(t, Service(t, test.name))
		check(t, syscall.Kill(pid(t, logs), test.signal))
		var undeployed controlapi.WorkloadUndeployedEvent
		events.Next(t, controlapi.WorkloadUndeployedEventType, &undeployed)
		if undeployed.Name != test.name || undeployed.Code != test.code || undeployed.Message != test.message {
			t.Errorf("undeployed: got %+v, want %+v", undeployed, test)
		}
		version.CheckUndeployed(t, undeployed, run)
	}
	if names := w.names(t, namespace); len(names) != 0 {
		t.Errorf("still there: %v", names)
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
	// The other node speaks after this one is gone: what should not come would have come before.
	_, err = w.Client(namespace).EnterLameDuck(w.Node.ID)
	check(t, err)
	events.NextFrom(t, w.Node.ID, controlapi.LameDuckEnteredEventType, nil)
	events.checkOnce(t, func(event controlapi.EmittedEvent) bool { return event.Source() == node.ID })
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
