package suite

import (
	"sync"
	"testing"

	controlapi "github.com/synadia-io/nex/control-api"
)

// askAll puts all questions at the same time, for the library waits its whole time for the answers to each, and gives
// the answers in the order of the questions. That nobody answers says something only while the node is there to answer:
// a ping is asked in the same time, and the node must have answered that.
func askAll[Question, Answer any](
	t *testing.T, w *World, questions []Question, ask func(Question) ([]Answer, error),
) ([][]Answer, []controlapi.PingResponse) {
	t.Helper()
	answers := make([][]Answer, len(questions))
	// The last one is that of the ping.
	errs := make([]error, len(questions)+1)
	var nodes []controlapi.PingResponse
	var asking sync.WaitGroup
	for i, question := range questions {
		asking.Go(func() { answers[i], errs[i] = ask(question) })
	}
	asking.Go(func() { nodes, errs[len(questions)] = w.Scatter(namespace).PingNodes() })
	asking.Wait()
	for _, err := range errs {
		check(t, err)
	}
	for _, node := range nodes {
		if node.NodeId == w.Node.ID {
			return answers, nodes
		}
	}
	w.Node.Show(t)
	t.Fatalf("the node did not answer a ping, so its silence says nothing: %+v", nodes)
	return nil, nil
}
