// Package conformance drives our node with the client library of Go Nex 0.3.0-rc1.
package conformance

import (
	"testing"

	"github.com/nats-io/nkeys"
	controlapi "github.com/synadia-io/nex/control-api"

	"nexconformance/harness"
	"nexconformance/harness/suite"
)

var version = suite.Version{
	// Nothing is configured for this version: it signs the artifact's hash.
	Hash:       func(sha256 string) string { return sha256 },
	HashOption: controlapi.Hash,
	HostServices: func(connection controlapi.NatsJwtConnectionInfo) controlapi.RequestOption {
		return controlapi.HostServicesConfig(&connection)
	},
	Stop: func(run *controlapi.RunResponse, node string, issuer nkeys.KeyPair) (*controlapi.StopRequest, error) {
		return controlapi.NewStopRequest(node, run.ID, issuer)
	},
	DeployClaim: func(request *controlapi.DeployRequest) *string { return request.WorkloadJWT },
	StopClaim:   func(request *controlapi.StopRequest) *string { return &request.WorkloadJWT },
	CheckInfo: func(t *testing.T, info *controlapi.InfoResponse, run *controlapi.RunResponse) {
		if info.AllowDuplicateWorkloads == nil || !*info.AllowDuplicateWorkloads {
			t.Errorf("duplicates are allowed by default: %v", info.AllowDuplicateWorkloads)
		}
		workload := info.Machines[0].Workload
		if workload.ID != run.ID || workload.Essential || workload.Uptime == "" {
			t.Errorf("workload: %+v", workload)
		}
	},
	// A reply of this version has no name.
	CheckStopped: func(*testing.T, *controlapi.StopResponse, *controlapi.RunResponse) {},
	CheckDeployed: func(t *testing.T, deployed controlapi.WorkloadDeployedEvent, run *controlapi.RunResponse) {
		if deployed.ID != run.ID || deployed.Essential {
			t.Errorf("deployed: %+v", deployed)
		}
	},
	CheckUndeployed: func(t *testing.T, undeployed controlapi.WorkloadUndeployedEvent, run *controlapi.RunResponse) {
		if undeployed.ID != run.ID {
			t.Errorf("undeployed: %+v", undeployed)
		}
	},
	CheckHeartbeat: func(t *testing.T, heartbeat controlapi.HeartbeatEvent, node string) {
		if heartbeat.NodeID != node {
			t.Errorf("node of the heartbeat: %q", heartbeat.NodeID)
		}
		if heartbeat.AllowDuplicateWorkloads == nil || !*heartbeat.AllowDuplicateWorkloads {
			t.Errorf("duplicates are allowed by default: %v", heartbeat.AllowDuplicateWorkloads)
		}
	},
	NodeIDs: func(
		started controlapi.NodeStartedEvent, lameDuck controlapi.LameDuckEnteredEvent, stopped controlapi.NodeStoppedEvent,
	) [3]string {
		return [3]string{started.ID, lameDuck.ID, stopped.ID}
	},
}

func TestMain(m *testing.M) {
	harness.Main(m)
}

func TestClient(t *testing.T) {
	suite.Run(t, version)
}

func TestAvailableAgentsAreCounted(t *testing.T) {
	t.Parallel()
	w := suite.New(t, version, map[string]any{"machine_pool_size": 2})
	harness.Eventually(t, "the pool is full", func() bool {
		info, err := w.Client("agents").NodeInfo(w.Node.ID)
		if err != nil {
			t.Fatal(err)
		}
		return info.AvailableAgents == 2
	})
}

func TestEssentialIsTold(t *testing.T) {
	t.Parallel()
	w := suite.New(t, version, nil)
	run := w.DeployIn(t, "essential", suite.Service(t, "service", controlapi.Essential(true)))
	info, err := w.Client("essential").NodeInfo(w.Node.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Machines) != 1 || !info.Machines[0].Workload.Essential || info.Machines[0].Id != run.ID {
		t.Errorf("machines: %+v", info.Machines)
	}
}

func TestDuplicatesAreRefusedWhereTheNodeSaysSo(t *testing.T) {
	t.Parallel()
	w := suite.New(t, version, map[string]any{"allow_duplicate_workloads": false})
	w.DeployIn(t, "duplicates", suite.Script("one", harness.EchoScript, "one"))
	_, err := w.Client("duplicates").StartWorkload(w.Request(t, suite.Script("two", harness.EchoScript, "two")))
	want := "Failed to deploy workload: attempted to deploy duplicate workload to node configured to reject duplicates"
	w.Refused(t, "a duplicate", err, want)
	// Another namespace is another matter.
	w.DeployIn(t, "elsewhere", suite.Script("two", harness.EchoScript, "two"))
}

func TestAnExplicitHashMustBeThatOfTheClaim(t *testing.T) {
	t.Parallel()
	w := suite.New(t, version, nil)
	request := w.Request(t, suite.Script("echo", harness.EchoScript, "explicit"))
	// The builder leaves this member empty; the type has it.
	other := w.Put(t, "other", []byte("something else"))
	request.Hash = &other
	_, err := w.Client("explicit").StartWorkload(request)
	w.Refused(t, "another hash", err, "Invalid deploy request: artifact hash claim does not match request")
}
