package suite

import (
	"slices"
	"testing"
)

func stopByDeployClaim(t *testing.T, version Version) {
	w := New(t, version, nil)
	deploy := w.Request(t, Service(t, "service"))
	run, err := w.Client(namespace).StartWorkload(deploy)
	check(t, err)
	// Whoever overheard the deploy has its claim, which is of the right issuer.
	stop, err := version.Stop(run, w.Node.ID, w.Issuer)
	check(t, err)
	*version.StopClaim(stop) = *version.DeployClaim(deploy)
	_, err = w.Client(namespace).StopWorkload(stop)
	w.Refused(t, "the claim of the deploy", err, "Invalid stop request: the claim is one to deploy")
	if names := w.names(t, namespace); !slices.Equal(names, []string{"service"}) {
		t.Errorf("running: %v", names)
	}
	w.Stop(t, run)
}

func stopByUnlistedIssuer(t *testing.T, version Version) {
	listed, stranger := Account(t), Account(t)
	w := New(t, version, map[string]any{"valid_issuers": []string{public(t, listed)}})
	w.Issuer = listed
	run := w.Deploy(t, Service(t, "service"))
	_, err := w.StopIn(t, namespace, run, stranger)
	w.Refused(t, "a stranger", err, "invalid workload issuer: "+public(t, stranger))
	if names := w.names(t, namespace); !slices.Equal(names, []string{"service"}) {
		t.Errorf("running: %v", names)
	}
	w.Stop(t, run)
}
