// Package conformance drives our node with the client library of Go Nex 0.2.7.
package conformance

import (
	"bytes"
	"testing"

	"github.com/nats-io/nkeys"
	controlapi "github.com/synadia-io/nex/control-api"

	"nexconformance/harness"
	"nexconformance/harness/suite"
)

// placeholder stands in claims of 0.2.7 where the artifact's hash should be.
const placeholder = "not-a-hash"

var version = suite.Version{
	Config:     map[string]any{"require_artifact_hash": false},
	Hash:       func(string) string { return placeholder },
	HashOption: controlapi.Checksum,
	HostServices: func(connection controlapi.NatsJwtConnectionInfo) controlapi.RequestOption {
		return controlapi.HostServicesConfig(connection)
	},
	Stop: func(run *controlapi.RunResponse, node string, issuer nkeys.KeyPair) (*controlapi.StopRequest, error) {
		return controlapi.NewStopRequest(run.ID, run.Name, node, issuer)
	},
	DeployClaim: func(request *controlapi.DeployRequest) *string { return request.WorkloadJwt },
	StopClaim:   func(request *controlapi.StopRequest) *string { return &request.WorkloadJwt },
	CheckInfo:   func(*testing.T, *controlapi.InfoResponse, *controlapi.RunResponse) {},
	CheckStopped: func(t *testing.T, stopped *controlapi.StopResponse, run *controlapi.RunResponse) {
		if stopped.Name != run.Name {
			t.Errorf("name of what was stopped: %q", stopped.Name)
		}
	},
	CheckDeployed:   func(*testing.T, controlapi.WorkloadDeployedEvent, *controlapi.RunResponse) {},
	CheckUndeployed: func(*testing.T, controlapi.WorkloadUndeployedEvent, *controlapi.RunResponse) {},
	CheckHeartbeat: func(t *testing.T, heartbeat controlapi.HeartbeatEvent, node string) {
		if heartbeat.NodeId != node {
			t.Errorf("node of the heartbeat: %q", heartbeat.NodeId)
		}
	},
	NodeIDs: func(
		started controlapi.NodeStartedEvent, lameDuck controlapi.LameDuckEnteredEvent, stopped controlapi.NodeStoppedEvent,
	) [3]string {
		return [3]string{started.Id, lameDuck.Id, stopped.Id}
	},
}

func TestMain(m *testing.M) {
	harness.Main(m)
}

func TestClient(t *testing.T) {
	suite.Run(t, version)
}

func TestDefaultNodeWantsTheHashOfTheArtifact(t *testing.T) {
	t.Parallel()
	// No configuration but that of the harness: the default of require_artifact_hash.
	byDefault := version
	byDefault.Config = nil
	w := suite.New(t, byDefault, nil)
	script := suite.Script("echo", harness.EchoScript, "hash.echo")
	_, err := w.Client("hash").StartWorkload(w.Request(t, script))
	w.Refused(t, "a placeholder", err, "Invalid deploy request: the claim holds no SHA-256 of the artifact")
	script.Options = append(script.Options, controlapi.Checksum(w.Put(t, "echo", script.Artifact)))
	w.DeployIn(t, "hash", script)
	if reply := w.Call(t, "hash.echo", []byte("hello")); string(reply) != "hello" {
		t.Errorf("got %q", reply)
	}
}

func TestTriggersCanHaveAConnectionOfTheirOwn(t *testing.T) {
	t.Parallel()
	w := suite.New(t, version, nil)
	// A server that lets nobody in without a signed user, so that all of the connection is used.
	other, user := harness.StartOperated(t)
	connection := controlapi.NatsJwtConnectionInfo{NatsUrl: other.URL, NatsUserJwt: user.JWT, NatsUserSeed: user.Seed}
	payload := []byte{0, 0xff, '\n', 0x80}
	w.DeployIn(t, "triggers", suite.Script("echo", harness.EchoScript, "echo", controlapi.TriggerConnection(connection)))
	if reply := other.Call(t, "echo", payload); !bytes.Equal(reply, payload) {
		t.Errorf("got %x", reply)
	}
	if harness.Answered(t, w.Server, "echo") {
		t.Error("the trigger is subscribed on the node's own server too")
	}
}
