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
			"",
		}, {
			"an artifact that does not exist",
			Script("missing", harness.EchoScript, "missing", controlapi.Location("nats://"+harness.Bucket+"/nothing")),
			"Failed to cache workload bytes: ",
		}, {
			"an artifact elsewhere than in NATS",
			Script("web", harness.EchoScript, "web", controlapi.Location("https://example.com/x.js")),
			"",
		}, {
			"a script with an error",
			Script("broken", "(subject, payload => payload", "broken"),
			"Failed to deploy workload: ",
		},
	} {
		t.Run(test.what, func(t *testing.T) {
			run, err := w.Client(namespace).StartWorkload(w.Request(t, test.deployment))
			if err == nil {
				t.Fatalf("it runs: %+v", run)
			}
			if err.Error() == "" || !strings.HasPrefix(err.Error(), test.want) {
				t.Errorf("got error %q, want one that begins with %q", err, test.want)
			}
		})
	}
	if names := w.names(t, namespace); len(names) != 0 {
		t.Errorf("running: %v", names)
	}
}

func claimOnce(t *testing.T, version Version) {
	w := New(t, version, nil)
	request := w.Request(t, Service(t, "once"))
	run, err := w.Client(namespace).StartWorkload(request)
	check(t, err)
	if _, err := w.Client(namespace).StartWorkload(request); err == nil {
		t.Error("the same claim deployed a second time")
	}
	w.Stop(t, run)
	if _, err := w.Client(namespace).StartWorkload(request); err == nil {
		t.Error("the same claim deployed again what was stopped")
	}
}

func otherBytes(t *testing.T, version Version) {
	w := New(t, version, nil)
	request := w.Request(t, Script("changed", harness.EchoScript, "changed",
		version.HashOption(strings.Repeat("0a", 32))))
	_, err := w.Client(namespace).StartWorkload(request)
	if err == nil {
		t.Fatal("bytes ran that the claim does not speak of")
	}
	// The same with the right digest, so that the digest is what was wrong.
	sha256 := w.Put(t, "changed", []byte(harness.EchoScript))
	w.Deploy(t, Script("changed", harness.EchoScript, "changed", version.HashOption(sha256)))
}

func issuers(t *testing.T, version Version) {
	trusted := Account(t)
	w := New(t, version, map[string]any{"valid_issuers": []string{public(t, trusted)}})
	_, err := w.Client(namespace).StartWorkload(w.Request(t, Script("stranger", harness.EchoScript, "stranger")))
	if want := "invalid workload issuer: " + public(t, w.Issuer); err == nil || err.Error() != want {
		t.Errorf("got error %v, want %q", err, want)
	}
	w.Issuer = trusted
	w.Deploy(t, Script("friend", harness.EchoScript, "friend"))
}
