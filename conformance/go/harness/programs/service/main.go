// Command service is the native workload of the tests: it tells what it was given, then waits to be stopped or, at the
// signal USR1, fails.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// failed is harness.Failed.
const failed = 3

func main() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1)
	// The process id lets a test end it as a crash would.
	fmt.Printf("pid=%d\n", os.Getpid())
	fmt.Printf("argv=%s\n", strings.Join(os.Args[1:], " "))
	for _, variable := range os.Environ() {
		fmt.Println(variable)
	}
	fmt.Fprintln(os.Stderr, "to standard error")
	if <-signals == syscall.SIGUSR1 {
		os.Exit(failed)
	}
}
