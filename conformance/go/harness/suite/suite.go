package suite

import "testing"

// Run runs what both versions have in common.
func Run(t *testing.T, version Version) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Version)
	}{
		{"PingNodes lists every node", pingNodes},
		{"PingWorkloads finds workloads by namespace, id and name", pingWorkloads},
		{"NodeInfo tells of the node and of one namespace", nodeInfo},
		{"Auction is answered by nodes that meet every constraint", auction},
		{"an auction of several nodes has the bids of those that fit", auctionOfSeveral},
		{"a full node is silent in an auction", fullNode},
		{"a native service gets argv and environment, and is followed by its log", nativeService},
		{"an essential service comes back after a crash", essentialService},
		{"a JavaScript function replies with the bytes it was sent", javaScript},
		{"a WebAssembly function replies with what it writes", webAssembly},
		{"functions get their environment", functionEnvironment},
		{"logs can be followed by the id of a workload", logsOfOne},
		{"a function's host services connection can be overridden", hostServices},
		{"a service's host services connection can be overridden", hostServicesOfService},
		{"a WASI preview 1 module is refused a host services connection", hostServicesOfModule},
		{"a client without a namespace is in that of the name default", defaultNamespace},
		{"an artifact is fetched from the JetStream domain of the request", jetStreamDomain},
		{"StopWorkload is for the issuer in the namespace", stopWorkload},
		{"the claim of a deploy does not do for a stop", stopByDeployClaim},
		{"an issuer that is not listed cannot stop", stopByUnlistedIssuer},
		{"events of a workload come exactly once and decode", workloadEvents},
		{"a call that fails is told by reply, event and log", functionFails},
		{"the event of a crash has its code", serviceCrashes},
		{"events of a node come exactly once and decode", nodeEvents},
		{"MonitorAllEvents and MonitorAllLogs report every namespace", monitorAll},
		{"EnterLameDuck closes the node", lameDuck},
		{"a lame duck leaves by itself", lameDuckLeaves},
		{"EnterLameDuck is refused where issuers are listed", lameDuckRefused},
		{"EnterLameDuck for an unknown node is answered by nobody", lameDuckElsewhere},
		{"refusals reach the caller as errors", refusals},
		{"a claim deploys once", claimOnce},
		{"a claim for other bytes is refused", otherBytes},
		{"an issuer that is not listed is refused", issuers},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, version)
		})
	}
}
