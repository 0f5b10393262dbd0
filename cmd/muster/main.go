// Command muster is the certificate enrollment gateway: `muster serve` runs it, `muster plugin NAME` is how it runs
// its shipped CA backends, and the other commands look at a running one or at its configuration.
//
// Everything is wired here, by hand and in one direction: config.go reads the file, build.go makes a Runtime of it,
// listeners.go what that serves, process.go holds what outlives a configuration. Packages below this one are for single
// commands: decode, devicefile; words is for all.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		calm()
		guarded()
		defer runtime.KeepAlive(newHeapFloor())
	}
	err := newRootCommand().Execute()
	var code exitCode
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	default:
		fmt.Fprintln(os.Stderr, complaint(err))
		os.Exit(1)
	}
}

// complaint is an error as it is printed: names out of files and messages stand in some, and drive no terminal.
func complaint(err error) string {
	return "muster: " + strings.ReplaceAll(harmless{err}.Error(), "\n", "\n        ")
}

// exitCode ends the program with a code, when everything has been said already.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }
