package harness

import (
	"bytes"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a program may take to become ready, or to end.
const patience = 30 * time.Second

// A Process is a child that cannot outlive the test.
type Process struct {
	name string
	cmd  *exec.Cmd
	log  *output
	done chan struct{}
}

// output is what a child printed; it may be read while the child still writes. What was read is not read again.
type output struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.text.Write(p)
}

func (o *output) read() string {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return string(o.text.Next(o.text.Len()))
}

// spawn starts a program that ends at the end of the test.
func spawn(t testing.TB, name string, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{name: name, cmd: cmd, log: &output{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	// What a child leaves behind may hold its output open, and must not keep Wait.
	cmd.WaitDelay = time.Second
	// A group of its own, so that a Ctrl-C reaches the test and not the child. The kernel ends the child with us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// The death signal is about the parent's thread: this one stays until the child has ended.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatalf("cannot start %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			p.Show(t)
		}
	})
	return p
}

// Show logs what the process printed and was not shown yet.
func (p *Process) Show(t testing.TB) {
	t.Helper()
	if text := p.log.read(); text != "" {
		t.Logf("%s printed:\n%s", p.name, text)
	}
}

// stop ends the process: politely, then not.
func (p *Process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if !p.ended(patience) {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (p *Process) ended(within time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(within):
		return false
	}
}

// Exit waits until the process ends by itself, and gives its status; -1 when a signal ended it.
func (p *Process) Exit(t testing.TB) int {
	t.Helper()
	if !p.ended(patience) {
		t.Fatalf("%s did not end", p.name)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Running says whether the process has not ended.
func (p *Process) Running() bool {
	return !p.ended(0)
}

// Signal sends a signal to the process.
func (p *Process) Signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
}
