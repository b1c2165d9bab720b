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
		controlapi.EnvironmentValue("ANOTHER", "value"),
	))
	argv, entry := logs.Next(t, "argv=")
	if argv != "-flag two words" {
		t.Errorf("argv: %q", argv)
	}
	value, _ := logs.Next(t, "CONFORMANCE=")
	if value != "sealed by the library: ü" {
		t.Errorf("environment: %q", value)
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

func hostServices(t *testing.T, version Version) {
	w := New(t, version, nil)
	// A server that lets nobody in without a signed user, so that all of the connection is used.
	other, user := harness.StartOperated(t)
	connection := controlapi.NatsJwtConnectionInfo{NatsUrl: other.URL, NatsUserJwt: user.JWT, NatsUserSeed: user.Seed}
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
	if _, err := w.Client(namespace).StartWorkload(request); err == nil {
		t.Error("an artifact of a domain that does not exist was found")
	}
}

func stopWorkload(t *testing.T, version Version) {
	w := New(t, version, nil)
	run := w.Deploy(t, Service(t, "service"))
	if _, err := w.StopIn(t, namespace, run, Account(t)); err == nil || !strings.HasPrefix(err.Error(), "Invalid stop request: ") {
		t.Errorf("another issuer: got error %v", err)
	}
	for what, namespace := range map[string]string{"another namespace": "elsewhere", "an empty one": "nobody"} {
		if _, err := w.StopIn(t, namespace, run, w.Issuer); err == nil || err.Error() != "No such workload" {
			t.Errorf("%s: got error %v", what, err)
		}
	}
	unknown := &controlapi.RunResponse{ID: "unknown", Name: run.Name}
	if _, err := w.StopIn(t, namespace, unknown, w.Issuer); err == nil || err.Error() != "No such workload" {
		t.Errorf("an unknown id: got error %v", err)
	}
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
	if _, err := w.StopIn(t, namespace, run, w.Issuer); err == nil || err.Error() != "No such workload" {
		t.Errorf("a second time: got error %v", err)
	}
}
