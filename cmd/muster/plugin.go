package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// newPluginCommand makes `muster plugin NAME`, which plugins/host runs and nobody types: Serve speaks go-plugin's
// handshake on standard output.
func newPluginCommand() *cobra.Command {
	return &cobra.Command{
		Use: "plugin NAME", Short: "Run a shipped CA backend as a plugin process", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, ok := shippedBackends()[args[0]]
			if !ok {
				return fmt.Errorf("no backend %q is part of this program%s", args[0], strictyaml.Suggest(args[0], byName(shippedBackends())))
			}
			guarded()
			backend.Serve(s.make(backend.Logger()))
			return nil
		},
	}
}
