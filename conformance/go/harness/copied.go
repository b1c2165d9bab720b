package harness

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// nex is our command line: a copy with its agent beside it, for a build may replace the originals while the tests run,
// and a node would then start agents of another build.
var nex string

// Main runs the tests of a package on copies of the programs, which are removed afterwards. It is for TestMain.
func Main(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "nex-conformance-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(folder) }()
	if err := copyPrograms(folder); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	nex = filepath.Join(folder, "nex")
	return m.Run()
}

func copyPrograms(to string) error {
	path := os.Getenv("NEX_BIN")
	if path == "" {
		root, err := findRoot()
		if err != nil {
			return err
		}
		path = filepath.Join(root, "target/debug/nex")
		if !isFile(path) {
			return errors.New("no nex in target/debug: build it with `cargo build`, or name one in NEX_BIN")
		}
	}
	programs := []string{path, filepath.Join(filepath.Dir(path), "nex-agent")}
	for end := time.Now().Add(patience); ; time.Sleep(time.Second) {
		err := copyWhole(programs, []string{filepath.Join(to, "nex"), filepath.Join(to, "nex-agent")})
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// copyWhole copies files; fails when one was replaced or written meanwhile.
func copyWhole(from, to []string) error {
	var before []os.FileInfo
	for _, path := range from {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		before = append(before, info)
	}
	for i := range from {
		if err := copyFile(from[i], to[i]); err != nil {
			return err
		}
	}
	for i, path := range from {
		after, err := os.Stat(path)
		if err != nil {
			return err
		}
		if !os.SameFile(before[i], after) || after.Size() != before[i].Size() || !after.ModTime().Equal(before[i].ModTime()) {
			return fmt.Errorf("%s is being built", path)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = source.Close() }()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
