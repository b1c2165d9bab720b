package suite

import (
	"bytes"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	controlapi "github.com/synadia-io/nex/control-api"

	"nexconformance/harness"
)

// allBytes is a payload that is no text in any encoding.
func allBytes() []byte {
	payload := make([]byte, 256)
	for i := range payload {
		payload[i] = byte(i)
	}
	return payload
}

func nativeService(t *testing.T, version Version) {
	w := New(t, version, nil)
	logs := w.Logs(t, namespace, "*", "*", "*")
	run := w.Deploy(t, Service(t, "service",
		controlapi.Argv([]string{"-flag", "two words"}),
		controlapi.Environment(map[string]string{"CONFORMANCE": "sealed by the library: ü"}),
		controlapi.EnvironmentValue("ANOTHER", "one value"),
	))
	argv, entry := logs.Next(t, "argv=")
	if argv != "-flag two words" {
		t.Errorf("argv: %q", argv)
	}
	value, _ := logs.Next(t, "CONFORMANCE=")
	if value != "sealed by the library: ü" {
		t.Errorf("environment: %q", value)
	}
	if value, _ := logs.Next(t, "ANOTHER="); value != "one value" {
		t.Errorf("a single value of the environment: %q", value)
	}
	if entry.Namespace != namespace || entry.NodeId != w.Node.ID || entry.Workload != run.ID || entry.ID != run.ID {
		t.Errorf("whose log it is: %+v", entry)
	}
	if entry.Level != slog.LevelInfo {
		t.Errorf("level of standard output: %v", entry.Level)
	}
	if _, entry := logs.Next(t, "to standard error"); entry.Level != slog.LevelWarn {
		t.Errorf("level of standard error: %v", entry.Level)
	}
}

func essentialService(t *testing.T, version Version) {
	w := New(t, version, map[string]any{"restart": map[string]any{"base_ms": 50}})
	// Filters of the library: the node, the workload's id, its name.
	logs := w.Logs(t, namespace, w.Node.ID, "*", "essential")
	events := w.Events(t, namespace)
	run := w.Deploy(t, Service(t, "essential", controlapi.Essential(true)))
	first := pid(t, logs)
	check(t, syscall.Kill(first, syscall.SIGKILL))
	events.Next(t, "workload_restarting", nil)
	if second := pid(t, logs); second == first {
		t.Errorf("the same process %d", second)
	}
	// It has its id still, and can be stopped by it.
	w.Stop(t, run)
	if names := w.names(t, namespace); len(names) != 0 {
		t.Errorf("still there: %v", names)
	}
}

func pid(t *testing.T, logs *Logs) int {
	t.Helper()
	text, _ := logs.Next(t, "pid=")
	number, err := strconv.Atoi(text)
	check(t, err)
	return number
}

func javaScript(t *testing.T, version Version) {
	w := New(t, version, nil)
	w.Deploy(t, Script("echo", harness.EchoScript, "js.echo.*"))
	if reply := w.Call(t, "js.echo.bytes", allBytes()); !bytes.Equal(reply, allBytes()) {
		t.Errorf("got %x", reply)
	}
	if reply := w.Call(t, "js.echo.empty", nil); len(reply) != 0 {
		t.Errorf("got %x, want nothing", reply)
	}
}

func webAssembly(t *testing.T, version Version) {
	w := New(t, version, nil)
	w.Deploy(t, Deployment{"echo", controlapi.NexWorkloadWasm, harness.Echo(t), []controlapi.RequestOption{
		controlapi.TriggerSubjects([]string{"wasm.one", "wasm.two"}),
	}})
	for _, subject := range []string{"wasm.one", "wasm.two"} {
		want := append([]byte(subject), allBytes()...)
		if reply := w.Call(t, subject, allBytes()); !bytes.Equal(reply, want) {
			t.Errorf("%s: got %x", subject, reply)
		}
	}
}

func functionEnvironment(t *testing.T, version Version) {
	w := New(t, version, nil)
	const value = "sealed by the library: ü"
	environment := controlapi.Environment(map[string]string{"CONFORMANCE": value})
	const source = `() => env.CONFORMANCE + ", " + env.ANOTHER`
	w.Deploy(t, Script("script", source, "env.script", environment, controlapi.EnvironmentValue("ANOTHER", "one value")))
	if reply := w.Call(t, "env.script", nil); string(reply) != value+", one value" {
		t.Errorf("JavaScript: got %q", reply)
	}
	w.Deploy(t, WebAssembly(t, "module", "env.module", environment))
	if reply := w.Call(t, "env.module", nil); string(reply) != "env.module"+value {
		t.Errorf("WebAssembly: got %q", reply)
	}
}

func logsOfOne(t *testing.T, version Version) {
	w := New(t, version, nil)
	const source = "(subject) => console.log(`called ${subject}`)"
	w.Deploy(t, Script("one", source, "logs.one"))
	run := w.Deploy(t, Script("two", source, "logs.two"))
	all, one := w.Logs(t, namespace, "*", "*", "*"), w.Logs(t, namespace, "*", run.ID, "*")
	for _, subject := range []string{"logs.one", "logs.two"} {
		w.Call(t, subject, nil)
		// Seen before the next call is made, so that the order of the two is certain.
		if text, _ := all.Next(t, "called "); text != subject {
			t.Errorf("got a log of %s, want one of %s", text, subject)
		}
	}
	text, entry := one.Next(t, "called ")
	if text != "logs.two" || entry.Workload != run.ID || entry.Level != slog.LevelInfo {
		t.Errorf("got %q, %+v", text, entry)
	}
}

func hostServices(t *testing.T, version Version) {
	w := New(t, version, nil)
	other, connection := elsewhere(t)
	const source = `(subject, payload) => {
		hostServices.kv.set("key", payload);
		return hostServices.kv.get("key");
	}`
	w.Deploy(t, Script("keeper", source, "keeper", version.HostServices(connection)))
	// Without a connection of their own, triggers are subscribed on that of host services, as they were in Go Nex.
	if reply := other.Call(t, "keeper", allBytes()); !bytes.Equal(reply, allBytes()) {
		t.Errorf("got %x", reply)
	}
	if buckets := buckets(t, other); len(buckets) != 1 {
		t.Errorf("key-value buckets on the other server: %v", buckets)
	}
	if buckets := buckets(t, w.Server); len(buckets) != 0 {
		t.Errorf("key-value buckets on the node's server: %v", buckets)
	}
}

func buckets(t *testing.T, server *harness.Server) []string {
	t.Helper()
	js, err := server.Conn.JetStream()
	check(t, err)
	var names []string
	for name := range js.KeyValueStoreNames() {
		names = append(names, name)
	}
	return names
}

func jetStreamDomain(t *testing.T, version Version) {
	w := On(t, version, harness.StartServer(t, "jetstream { domain: hub }"), nil)
	w.Deploy(t, Script("there", harness.EchoScript, "domain.there", controlapi.JsDomain("hub")))
	w.Call(t, "domain.there", nil)
	request := w.Request(t, Script("gone", harness.EchoScript, "domain.gone", controlapi.JsDomain("nowhere")))
	_, err := w.Client(namespace).StartWorkload(request)
	// What follows is the server's.
	const want = "Failed to cache workload bytes: object store bucket '" + harness.Bucket + "' cannot be opened: "
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		w.Node.Show(t)
		t.Errorf("a domain that does not exist: got error %v, want %q", err, want)
	}
}

func stopWorkload(t *testing.T, version Version) {
	w := New(t, version, nil)
	run := w.Deploy(t, Service(t, "service"))
	_, err := w.StopIn(t, namespace, run, Account(t))
	w.Refused(t, "another issuer", err, "Invalid stop request: the issuer is not the one who deployed the workload")
	_, err = w.StopIn(t, "elsewhere", run, w.Issuer)
	w.Refused(t, "another namespace", err, "No such workload")
	_, err = w.StopIn(t, namespace, &controlapi.RunResponse{ID: "unknown", Name: run.Name}, w.Issuer)
	w.Refused(t, "an unknown id", err, "No such workload")
	if names := w.names(t, namespace); !slices.Equal(names, []string{"service"}) {
		t.Fatalf("running: %v", names)
	}
	stopped := w.Stop(t, run)
	if !stopped.Stopped || stopped.ID != run.ID || stopped.Issuer != run.Issuer {
		t.Errorf("stopped: %+v", stopped)
	}
	version.CheckStopped(t, stopped, run)
	if names := w.names(t, namespace); len(names) != 0 {
		t.Errorf("still running: %v", names)
	}
	_, err = w.StopIn(t, namespace, run, w.Issuer)
	w.Refused(t, "a second time", err, "No such workload")
}
