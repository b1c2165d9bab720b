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
		{"a native service gets argv and environment, and is followed by its log", nativeService},
		{"an essential service comes back after a crash", essentialService},
		{"a JavaScript function replies with the bytes it was sent", javaScript},
		{"a WebAssembly function replies with what it writes", webAssembly},
		{"a function's host services connection can be overridden", hostServices},
		{"an artifact is fetched from the JetStream domain of the request", jetStreamDomain},
		{"StopWorkload is for the issuer in the namespace", stopWorkload},
		{"events of a workload come exactly once and decode", workloadEvents},
		{"events of a node decode", nodeEvents},
		{"MonitorAllEvents and MonitorAllLogs report every namespace", monitorAll},
		{"EnterLameDuck closes the node", lameDuck},
		{"a lame duck leaves by itself", lameDuckLeaves},
		{"EnterLameDuck is refused where issuers are listed", lameDuckRefused},
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
