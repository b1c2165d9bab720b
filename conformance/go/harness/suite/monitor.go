package suite

import (
	"strings"
	"testing"
	"time"

	controlapi "github.com/synadia-io/nex/control-api"
)

// buffer is the room of the library's channels. One that is full would keep the connection's other messages waiting.
const buffer = 1024

// Events are those that the library reports.
type Events struct {
	reported chan controlapi.EmittedEvent
	seen     []controlapi.EmittedEvent
}

// Events listens to the events of a namespace and of the nodes, from now on.
func (w *World) Events(t *testing.T, namespace string) *Events {
	t.Helper()
	reported, err := w.Client(namespace).MonitorEvents(namespace, "*", buffer)
	check(t, err)
	w.Sync(t)
	return &Events{reported: reported}
}

// AllEvents listens to all events by the library's own short form.
func (w *World) AllEvents(t *testing.T) *Events {
	t.Helper()
	reported, err := w.Client(namespace).MonitorAllEvents()
	check(t, err)
	w.Sync(t)
	return &Events{reported: reported}
}

// Next waits for the next event of a type, and has the library decode its data.
func (e *Events) Next(t *testing.T, kind string, data any) controlapi.EmittedEvent {
	t.Helper()
	return e.NextFrom(t, "", kind, data)
}

// NextFrom does the same for the events of one node: one that has just started may still be announced when a test
// begins to listen.
func (e *Events) NextFrom(t *testing.T, node, kind string, data any) controlapi.EmittedEvent {
	t.Helper()
	end := time.After(patience)
	for {
		select {
		case event := <-e.reported:
			e.seen = append(e.seen, event)
			if event.Type() != kind || !strings.HasPrefix(event.Source(), node) {
				continue
			}
			if event.EventType != kind {
				t.Errorf("an event of type %s came on the subject of %s", kind, event.EventType)
			}
			if event.SpecVersion() != "1.0" || event.ID() == "" || event.Time().IsZero() {
				t.Errorf("no complete CloudEvent: %v", event.Event)
			}
			if data != nil {
				if err := event.DataAs(data); err != nil {
					t.Fatalf("the data of %s: %v", kind, err)
				}
			}
			return event
		case <-end:
			t.Fatalf("no event %s in time; there were %v", kind, e.counts())
		}
	}
}

// counts says how many events of each type came up to now.
func (e *Events) counts() map[string]int {
	counts := make(map[string]int)
	for _, event := range e.seen {
		counts[event.Type()]++
	}
	return counts
}

// Logs are the entries that the library reports.
type Logs struct {
	reported chan controlapi.EmittedLog
	seen     []string
}

// Logs listens to the workloads of a namespace, from now on.
func (w *World) Logs(t *testing.T, namespace, node, workload, vm string) *Logs {
	t.Helper()
	reported, err := w.Client(namespace).MonitorLogs(namespace, node, workload, vm, buffer)
	check(t, err)
	w.Sync(t)
	return &Logs{reported: reported}
}

// AllLogs listens to all workloads by the library's own short form.
func (w *World) AllLogs(t *testing.T) *Logs {
	t.Helper()
	reported, err := w.Client(namespace).MonitorAllLogs()
	check(t, err)
	w.Sync(t)
	return &Logs{reported: reported}
}

// Next waits for the next entry that begins with this, and gives the rest of its text too.
func (l *Logs) Next(t *testing.T, beginning string) (string, controlapi.EmittedLog) {
	t.Helper()
	end := time.After(patience)
	for {
		select {
		case entry := <-l.reported:
			l.seen = append(l.seen, entry.Text)
			if rest, ok := strings.CutPrefix(entry.Text, beginning); ok {
				return rest, entry
			}
		case <-end:
			t.Fatalf("no log entry %q in time; there were %q", beginning, l.seen)
		}
	}
}
