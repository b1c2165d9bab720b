package suite

import (
	"slices"
	"strings"
	"testing"
	"time"

	controlapi "github.com/synadia-io/nex/control-api"
)

// buffer is the room of the library's channels. One that is full would keep the connection's other messages waiting.
const buffer = 1024

// Events are those that the library reports. It hands over those of a namespace and those of the nodes by two
// goroutines, so that the order of the two kinds is by chance.
type Events struct {
	reported chan controlapi.EmittedEvent
	seen     []controlapi.EmittedEvent
	// waiting are those seen that nobody asked for yet.
	waiting []controlapi.EmittedEvent
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

// Next waits for the next event of a type, and has the library decode its data. Events of other types are kept.
func (e *Events) Next(t *testing.T, kind string, data any) controlapi.EmittedEvent {
	t.Helper()
	return e.NextFrom(t, "", kind, data)
}

// NextFrom does the same for the events of one node: one that has just started may still be announced when a test
// begins to listen.
func (e *Events) NextFrom(t *testing.T, node, kind string, data any) controlapi.EmittedEvent {
	t.Helper()
	event := e.take(t, node, kind)
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
}

func (e *Events) take(t *testing.T, node, kind string) controlapi.EmittedEvent {
	t.Helper()
	end := time.After(patience)
	for {
		wanted := func(event controlapi.EmittedEvent) bool {
			return event.Type() == kind && strings.HasPrefix(event.Source(), node)
		}
		if i := slices.IndexFunc(e.waiting, wanted); i >= 0 {
			event := e.waiting[i]
			e.waiting = slices.Delete(e.waiting, i, i+1)
			return event
		}
		select {
		case event := <-e.reported:
			e.seen = append(e.seen, event)
			e.waiting = append(e.waiting, event)
		case <-end:
			t.Fatalf("no event %s in time; there were %v", kind, e.seen)
		}
	}
}

// checkOnce checks that no event of those chosen came more than once up to now.
func (e *Events) checkOnce(t *testing.T, chosen func(controlapi.EmittedEvent) bool) {
	t.Helper()
	counts := make(map[string]int)
	for _, event := range e.seen {
		// Heartbeats come by the clock.
		if chosen(event) && event.Type() != controlapi.HeartbeatEventType {
			counts[event.Type()]++
		}
	}
	for kind, count := range counts {
		if count != 1 {
			t.Errorf("%s came %d times", kind, count)
		}
	}
}

// Logs are the entries that the library reports.
type Logs struct {
	reported chan controlapi.EmittedLog
	// waiting are those that came and nobody asked for yet.
	waiting []controlapi.EmittedLog
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

// Next waits for the next entry that begins with this, and gives the rest of its text too. Others are kept: standard
// output and standard error are two streams, and either may be ahead.
func (l *Logs) Next(t *testing.T, beginning string) (string, controlapi.EmittedLog) {
	t.Helper()
	end := time.After(patience)
	for {
		wanted := func(entry controlapi.EmittedLog) bool { return strings.HasPrefix(entry.Text, beginning) }
		if i := slices.IndexFunc(l.waiting, wanted); i >= 0 {
			entry := l.waiting[i]
			l.waiting = slices.Delete(l.waiting, i, i+1)
			return strings.TrimPrefix(entry.Text, beginning), entry
		}
		select {
		case entry := <-l.reported:
			l.waiting = append(l.waiting, entry)
		case <-end:
			t.Fatalf("no log entry %q in time; there were %v", beginning, l.waiting)
		}
	}
}
