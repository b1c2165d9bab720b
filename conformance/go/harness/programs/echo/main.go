// Command echo is the WebAssembly function of the tests: it answers with its subject, the variable CONFORMANCE and what
// it was sent.
package main

import (
	"io"
	"os"
)

func main() {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		os.Exit(1)
	}
	if _, err := os.Stdout.Write(append([]byte(os.Args[1]+os.Getenv("CONFORMANCE")), input...)); err != nil {
		os.Exit(1)
	}
}
