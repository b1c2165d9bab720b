// Command service is the native workload of the tests: it tells what it was given, then waits to be stopped.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	// The process id lets a test end it as a crash would.
	fmt.Printf("pid=%d\n", os.Getpid())
	fmt.Printf("argv=%s\n", strings.Join(os.Args[1:], " "))
	fmt.Printf("CONFORMANCE=%s\n", os.Getenv("CONFORMANCE"))
	fmt.Fprintln(os.Stderr, "to standard error")
	<-stop
}
