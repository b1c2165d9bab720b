// Command nexvectors makes the wire fixtures of the Rust tests with Go's own encoders and the NATS libraries, and
// verifies the vectors that the Rust code makes. See README.md.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// Fixture files, seen from this folder.
const (
	protocolFixture = "../../crates/nex-protocol/tests/fixtures/go.json"
	identityFixture = "../../crates/nex-identity/tests/fixtures/go.json"
	reverseFixture  = "../../crates/nex-identity/tests/fixtures/nex.json"
)

func main() {
	command := ""
	if len(os.Args) == 2 {
		command = os.Args[1]
	}
	var err error
	switch command {
	case "protocol":
		err = writeFixture(protocolFixture, "documents", protocolDocuments())
	case "identity":
		err = writeIdentity()
	case "verify":
		err = verifyReverse(reverseFixture)
	default:
		err = fmt.Errorf("usage: go run . protocol | identity | verify")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func writeIdentity() error {
	vectors, err := identityVectors()
	if err != nil {
		return err
	}
	return writeFixture(identityFixture, "vectors", vectors)
}

// A document is a named piece of JSON, kept exactly as its encoder wrote it.
type document struct {
	name string
	json []byte
}

// encode names what Go's encoder makes of a value.
func encode(name string, value any) document {
	text, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", name, err))
	}
	return document{name, text}
}

// writeFixture writes one document a line; the lines are never reformatted, so that they stay the encoder's bytes.
func writeFixture(path, member string, documents []document) error {
	madeBy := fmt.Sprintf("conformance/vectors (`go run . %s`), %s, jwt v2.5.7, nkeys v0.4.7, cloudevents v2.15.2",
		os.Args[1], runtime.Version())
	var out bytes.Buffer
	fmt.Fprintf(&out, "{\n  %q: %q,\n  %q: {\n", "made_by", madeBy, member)
	for i, document := range documents {
		comma := ","
		if i == len(documents)-1 {
			comma = ""
		}
		fmt.Fprintf(&out, "    %q: %s%s\n", document.name, document.json, comma)
	}
	out.WriteString("  }\n}\n")
	if !json.Valid(out.Bytes()) {
		return fmt.Errorf("%s would not be JSON", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}
