package suite

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// complaints are what the library logged as errors: replies and log entries that it could not read.
type complaints struct {
	mutex *sync.Mutex
	texts *[]string
}

// watch gives a handler for the library's log. What the library complains about fails the test.
func watch(t *testing.T) slog.Handler {
	handler := complaints{new(sync.Mutex), new([]string)}
	t.Cleanup(func() {
		handler.mutex.Lock()
		defer handler.mutex.Unlock()
		for _, text := range *handler.texts {
			t.Errorf("the library complained: %s", text)
		}
	})
	return handler
}

func (c complaints) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelError
}
func (c complaints) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c complaints) WithGroup(string) slog.Handler      { return c }

func (c complaints) Handle(ctx context.Context, record slog.Record) error {
	var text strings.Builder
	if err := slog.NewTextHandler(&text, nil).Handle(ctx, record); err != nil {
		return err
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	*c.texts = append(*c.texts, text.String())
	return nil
}
