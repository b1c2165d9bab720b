package suite

import (
	"strings"
	"testing"

	controlapi "github.com/synadia-io/nex/control-api"

	"nexconformance/harness"
)

func refusals(t *testing.T, version Version) {
	w := New(t, version, map[string]any{"deny_trigger_subjects": []string{"private.>"}})
	triggers := func(subjects ...string) controlapi.RequestOption { return controlapi.TriggerSubjects(subjects) }
	for _, test := range []struct {
		what       string
		deployment Deployment
		// want is how the text of Go Nex begins.
		want string
	}{
		{
			"a type that no node runs",
			Deployment{"oci", controlapi.NexWorkloadOCI, []byte("x"), nil},
			"Unsupported workload type on this node: oci",
		}, {
			"a trigger for a service",
			Service(t, "triggered", triggers("a")),
			"Unsupported workload type for trigger subject registration: native",
		}, {
			"a trigger that is denied",
			Script("denied", harness.EchoScript, "private.data"),
			"The trigger subject private.data overlaps with subject(s) in this node's deny list",
		}, {
			"a wildcard that takes in what is denied",
			Script("denied", harness.EchoScript, "*.data"),
			"The trigger subject *.data overlaps with subject(s) in this node's deny list",
		}, {
			"an environment sealed for somebody else",
			Script("sealed", harness.EchoScript, "sealed", controlapi.TargetPublicXKey(public(t, curve(t)))),
			"Failed to decrypt environment for deploy request: ",
		}, {
			"a name that is none",
			Script("good", harness.EchoScript, "named", controlapi.WorkloadName("no good")),
			"Invalid deploy request: ",
		}, {
			"an essential function",
			Script("essential", harness.EchoScript, "essential", controlapi.Essential(true)),
			"Invalid deploy request: essential flag is not supported for workload type: v8",
		}, {
			"an artifact that does not exist",
			Script("missing", harness.EchoScript, "missing", controlapi.Location("nats://"+harness.Bucket+"/nothing")),
			"Failed to cache workload bytes: there is no object 'nothing' in bucket '" + harness.Bucket + "'",
		}, {
			"an artifact elsewhere than in NATS",
			Script("web", harness.EchoScript, "web", controlapi.Location("https://example.com/x.js")),
			"Unable to deserialize deploy request: location must be nats://BUCKET/key, its scheme is 'https'",
		}, {
			"a script with an error",
			Script("broken", "(subject, payload => payload", "broken"),
			"Failed to deploy workload: workload rejected by agent: ",
		},
	} {
		t.Run(test.what, func(t *testing.T) {
			run, err := w.Client(namespace).StartWorkload(w.Request(t, test.deployment))
			if err == nil {
				t.Fatalf("it runs: %+v", run)
			}
			if !strings.HasPrefix(err.Error(), test.want) {
				w.Node.Show(t)
				t.Errorf("got error %q, want one that begins with %q", err, test.want)
			}
		})
	}
	// There the node tells of itself, and its events and logs must not be mistaken for those of a workload.
	_, err := w.Client("system").StartWorkload(w.Request(t, Script("own", harness.EchoScript, "own")))
	w.Refused(t, "the node's own namespace", err,
		"Invalid subject for workload deployment: the namespace system is the node's own")
	for _, namespace := range []string{namespace, "system"} {
		if names := w.names(t, namespace); len(names) != 0 {
			t.Errorf("running in %s: %v", namespace, names)
		}
	}
}

func claimOnce(t *testing.T, version Version) {
	w := New(t, version, nil)
	request := w.Request(t, Service(t, "once"))
	run, err := w.Client(namespace).StartWorkload(request)
	check(t, err)
	const used = "Invalid deploy request: the claim was used before"
	_, err = w.Client(namespace).StartWorkload(request)
	w.Refused(t, "a second time", err, used)
	w.Stop(t, run)
	_, err = w.Client(namespace).StartWorkload(request)
	w.Refused(t, "after a stop", err, used)
}

func otherBytes(t *testing.T, version Version) {
	w := New(t, version, nil)
	other := strings.Repeat("0a", 32)
	request := w.Request(t, Script("changed", harness.EchoScript, "changed", version.HashOption(other)))
	sha256 := w.Put(t, "changed", []byte(harness.EchoScript))
	_, err := w.Client(namespace).StartWorkload(request)
	w.Refused(t, "other bytes", err, "Invalid deploy request: nats://"+harness.Bucket+"/changed has SHA-256 "+sha256+
		", the claim says "+other)
	// The same with the right digest, so that the digest is what was wrong.
	w.Deploy(t, Script("changed", harness.EchoScript, "changed", version.HashOption(sha256)))
}

func issuers(t *testing.T, version Version) {
	trusted := Account(t)
	w := New(t, version, map[string]any{"valid_issuers": []string{public(t, trusted)}})
	_, err := w.Client(namespace).StartWorkload(w.Request(t, Script("stranger", harness.EchoScript, "stranger")))
	w.Refused(t, "a stranger", err, "invalid workload issuer: "+public(t, w.Issuer))
	w.Issuer = trusted
	w.Deploy(t, Script("friend", harness.EchoScript, "friend"))
}
