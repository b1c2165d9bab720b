// Package suite is what the conformance tests of both versions of the library have in common. It is compiled with the
// version that the module under test asks for; where the two differ, a Version says how.
package suite

import (
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	controlapi "github.com/synadia-io/nex/control-api"

	"nexconformance/harness"
)

const (
	// scatter is how long the library collects answers: it always waits the whole time. A node under load takes some.
	scatter = 2 * time.Second
	// patience is for requests to one node, and for events.
	patience = 30 * time.Second
	// namespace is where tests deploy when they do not care.
	namespace = "conformance"
)

// A Version is what differs between the versions of the library.
type Version struct {
	// Config is what a node needs to take the claims of this version as its command line makes them.
	Config map[string]any
	// Hash is what that command line puts into a claim, for an artifact of this digest.
	Hash func(sha256 string) string
	// HashOption sets it.
	HashOption func(hash string) controlapi.RequestOption
	// HostServices overrides the connection of host services.
	HostServices func(controlapi.NatsJwtConnectionInfo) controlapi.RequestOption
	// Stop makes a request to stop.
	Stop func(run *controlapi.RunResponse, node string, issuer nkeys.KeyPair) (*controlapi.StopRequest, error)
	// DeployClaim is where a request to deploy has its claim, StopClaim where one to stop has it.
	DeployClaim func(*controlapi.DeployRequest) *string
	StopClaim   func(*controlapi.StopRequest) *string

	// What only one of the versions has is checked by these.
	CheckInfo       func(*testing.T, *controlapi.InfoResponse, *controlapi.RunResponse)
	CheckStopped    func(*testing.T, *controlapi.StopResponse, *controlapi.RunResponse)
	CheckDeployed   func(*testing.T, controlapi.WorkloadDeployedEvent, *controlapi.RunResponse)
	CheckUndeployed func(*testing.T, controlapi.WorkloadUndeployedEvent, *controlapi.RunResponse)
	CheckHeartbeat  func(*testing.T, controlapi.HeartbeatEvent, string)
	// NodeIDs are the nodes that these events name.
	NodeIDs func(controlapi.NodeStartedEvent, controlapi.LameDuckEnteredEvent, controlapi.NodeStoppedEvent) [3]string
}

// A World is a server, a node on it, and somebody who deploys with the library.
type World struct {
	*harness.Server
	Node    *harness.Node
	Issuer  nkeys.KeyPair
	Sender  nkeys.KeyPair
	version Version
	log     *slog.Logger
}

// New starts a node with what the version needs and these keys in its configuration.
func New(t *testing.T, version Version, config map[string]any) *World {
	t.Helper()
	return On(t, version, harness.StartServer(t), config)
}

// On does the same on a given server.
func On(t *testing.T, version Version, server *harness.Server, config map[string]any) *World {
	t.Helper()
	all := make(map[string]any)
	for _, keys := range []map[string]any{version.Config, config} {
		for key, value := range keys {
			all[key] = value
		}
	}
	return &World{
		Server:  server,
		Node:    harness.StartNode(t, server, all),
		Issuer:  Account(t),
		Sender:  curve(t),
		version: version,
		log:     slog.New(watch(t)),
	}
}

// Account makes a key to sign claims with.
func Account(t testing.TB) nkeys.KeyPair {
	t.Helper()
	key, err := nkeys.CreateAccount()
	check(t, err)
	return key
}

func curve(t testing.TB) nkeys.KeyPair {
	t.Helper()
	key, err := nkeys.CreateCurveKeys()
	check(t, err)
	return key
}

func public(t testing.TB, key nkeys.KeyPair) string {
	t.Helper()
	text, err := key.PublicKey()
	check(t, err)
	return text
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Scatter is the library's client for calls that collect the answers of all nodes.
func (w *World) Scatter(namespace string) *controlapi.Client {
	return controlapi.NewApiClientWithNamespace(w.Conn, scatter, namespace, w.log)
}

// Client is the library's client for requests to one node.
func (w *World) Client(namespace string) *controlapi.Client {
	return controlapi.NewApiClientWithNamespace(w.Conn, patience, namespace, w.log)
}

// A Deployment is a workload whose artifact is uploaded under its name.
type Deployment struct {
	Name     string
	Type     controlapi.NexWorkload
	Artifact []byte
	Options  []controlapi.RequestOption
}

// Service is the native program of the harness.
func Service(t *testing.T, name string, options ...controlapi.RequestOption) Deployment {
	t.Helper()
	return Deployment{name, controlapi.NexWorkloadNative, harness.Service(t), options}
}

// Script is a JavaScript function.
func Script(name, source, trigger string, options ...controlapi.RequestOption) Deployment {
	options = append(options, controlapi.TriggerSubjects([]string{trigger}))
	return Deployment{name, controlapi.NexWorkloadV8, []byte(source), options}
}

// WebAssembly is the WebAssembly function of the harness.
func WebAssembly(t *testing.T, name, trigger string, options ...controlapi.RequestOption) Deployment {
	t.Helper()
	options = append(options, controlapi.TriggerSubjects([]string{trigger}))
	return Deployment{name, controlapi.NexWorkloadWasm, harness.Echo(t), options}
}

// Request uploads the artifact and has the library make the request. The options of the deployment come last, and so
// replace what is set here.
func (w *World) Request(t *testing.T, deployment Deployment) *controlapi.DeployRequest {
	t.Helper()
	sha256 := w.Put(t, deployment.Name, deployment.Artifact)
	options := append([]controlapi.RequestOption{
		controlapi.WorkloadName(deployment.Name),
		controlapi.WorkloadType(deployment.Type),
		controlapi.WorkloadDescription("of the conformance suite"),
		controlapi.Location("nats://" + harness.Bucket + "/" + deployment.Name),
		controlapi.Environment(map[string]string{}),
		controlapi.Issuer(w.Issuer),
		controlapi.SenderXKey(w.Sender),
		controlapi.TargetNode(w.Node.ID),
		controlapi.TargetPublicXKey(w.Node.XKey),
		w.version.HashOption(w.version.Hash(sha256)),
	}, deployment.Options...)
	request, err := controlapi.NewDeployRequest(options...)
	check(t, err)
	return request
}

// DeployIn deploys a workload and checks the answer.
func (w *World) DeployIn(t *testing.T, namespace string, deployment Deployment) *controlapi.RunResponse {
	t.Helper()
	run, err := w.Client(namespace).StartWorkload(w.Request(t, deployment))
	if err != nil {
		w.Node.Show(t)
		t.Fatalf("deploying %s: %v", deployment.Name, err)
	}
	want := controlapi.RunResponse{Started: true, ID: run.ID, Issuer: public(t, w.Issuer), Name: deployment.Name}
	if *run != want || run.ID == "" {
		t.Fatalf("deploy: got %+v, want %+v with an id", *run, want)
	}
	return run
}

// Deploy does so in the namespace of the tests.
func (w *World) Deploy(t *testing.T, deployment Deployment) *controlapi.RunResponse {
	t.Helper()
	return w.DeployIn(t, namespace, deployment)
}

// StopIn stops a workload, signed by an issuer.
func (w *World) StopIn(
	t *testing.T, namespace string, run *controlapi.RunResponse, issuer nkeys.KeyPair,
) (*controlapi.StopResponse, error) {
	t.Helper()
	request, err := w.version.Stop(run, w.Node.ID, issuer)
	check(t, err)
	return w.Client(namespace).StopWorkload(request)
}

// Stop stops a workload as its issuer.
func (w *World) Stop(t *testing.T, run *controlapi.RunResponse) *controlapi.StopResponse {
	t.Helper()
	stopped, err := w.StopIn(t, namespace, run, w.Issuer)
	if err != nil {
		w.Node.Show(t)
		t.Fatalf("stopping %s: %v", run.Name, err)
	}
	return stopped
}

// Refused checks that something was refused with this text.
func (w *World) Refused(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		w.Node.Show(t)
		t.Errorf("%s: got error %v, want %q", what, err, want)
	}
}

// names are the workloads that INFO lists for a namespace.
func (w *World) names(t *testing.T, namespace string) []string {
	t.Helper()
	info, err := w.Client(namespace).NodeInfo(w.Node.ID)
	check(t, err)
	names := []string{}
	for _, machine := range info.Machines {
		names = append(names, machine.Workload.Name)
	}
	return names
}
