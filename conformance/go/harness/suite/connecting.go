package suite

import (
	"testing"

	controlapi "github.com/synadia-io/nex/control-api"

	"nexconformance/harness"
)

// elsewhere starts a server that lets nobody in without a signed user, so that all of a connection is used.
func elsewhere(t *testing.T) (*harness.Server, controlapi.NatsJwtConnectionInfo) {
	t.Helper()
	server, user := harness.StartOperated(t)
	return server, controlapi.NatsJwtConnectionInfo{NatsUrl: server.URL, NatsUserJwt: user.JWT, NatsUserSeed: user.Seed}
}

func hostServicesOfService(t *testing.T, version Version) {
	w := New(t, version, nil)
	_, connection := elsewhere(t)
	logs := w.Logs(t, namespace, "*", "*", "*")
	w.Deploy(t, Service(t, "service", version.HostServices(connection)))
	for variable, want := range map[string]string{
		"NEX_HOSTSERVICES_NATS_SERVER":    connection.NatsUrl,
		"NEX_HOSTSERVICES_NATS_USER_JWT":  connection.NatsUserJwt,
		"NEX_HOSTSERVICES_NATS_USER_SEED": connection.NatsUserSeed,
	} {
		if value, _ := logs.Next(t, variable+"="); value != want {
			t.Errorf("%s: got %q, want %q", variable, value, want)
		}
	}
}

// Go Nex takes it, for it subscribes triggers on that connection. Ours refuses what a module cannot use; a component can,
// but Go builds none.
func hostServicesOfModule(t *testing.T, version Version) {
	w := New(t, version, nil)
	_, connection := elsewhere(t)
	module := WebAssembly(t, "module", "module", version.HostServices(connection))
	_, err := w.Client(namespace).StartWorkload(w.Request(t, module))
	w.Refused(t, "a module", err, "Failed to deploy workload: workload rejected by agent: a WASI preview 1 module has no "+
		"host services: build a component (for Rust, target wasm32-wasip2) to use them")
}

func defaultNamespace(t *testing.T, version Version) {
	w := New(t, version, nil)
	client := controlapi.NewApiClient(w.Conn, patience, w.log)
	run, err := client.StartWorkload(w.Request(t, Service(t, "service")))
	check(t, err)
	info, err := client.NodeInfo(w.Node.ID)
	check(t, err)
	if len(info.Machines) != 1 || info.Machines[0].Id != run.ID || info.Machines[0].Namespace != "default" {
		t.Errorf("machines: %+v", info.Machines)
	}
	if names := w.names(t, namespace); len(names) != 0 {
		t.Errorf("in another namespace: %v", names)
	}
	stop, err := version.Stop(run, w.Node.ID, w.Issuer)
	check(t, err)
	if _, err := client.StopWorkload(stop); err != nil {
		w.Node.Show(t)
		t.Fatal(err)
	}
	if names := w.names(t, "default"); len(names) != 0 {
		t.Errorf("still running: %v", names)
	}
}
