//go:build cgo

package main

import (
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/cmd/muster-pkcs11/token"
	"github.com/muster-pki/muster/plugins/backend"
)

func main() {
	if len(os.Args) > 1 {
		if err := byHand(os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "muster-pkcs11:", err)
			os.Exit(1)
		}
		return
	}
	backend.Serve(newPlugin(backend.Logger()))
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

// openToken opens the token that a configuration names. A module that hangs ends the process: its host starts another one, and
// nothing that was signed and not recorded counts.
func openToken(c local.PKCS11, log *slog.Logger) (*token.Token, error) {
	t, err := token.Open(token.Config{
		Module: c.Module, Label: c.Token, PINFile: c.PIN, Environment: c.Environment, Log: log,
		Hung: func() {
			log.Error("the PKCS #11 module does not come back from a call: this process ends", "module", c.Module)
			os.Exit(1)
		},
	})
	return t, err
}
