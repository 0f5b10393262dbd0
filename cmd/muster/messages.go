package main

import (
	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/decode"
)

func newCMPCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cmp", Short: "Look at CMP messages, and have them answered"}
	cmd.AddCommand(decode.NewCMPCommand(), newCMPProcessCommand())
	return cmd
}

func newSCEPCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "scep", Short: "Look at SCEP messages"}
	cmd.AddCommand(decode.NewSCEPCommand())
	return cmd
}
