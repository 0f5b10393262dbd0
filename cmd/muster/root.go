package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "muster",
		Short: "A certificate enrollment gateway: CMP, EST and SCEP in front of any CA",
		Long: `Muster is a registration authority: devices ask it for certificates, one pipeline decides who may have which,
and a CA behind a plugin issues them, exactly once.

  muster serve       with nothing configured: an embedded CA, a store, and the commands that enrol a device`,
		SilenceUsage:      true,
		SilenceErrors:     true, // main prints them
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	config := &cobra.Command{Use: "config", Short: "Look at a configuration file", SuggestFor: []string{"check"}}
	config.AddCommand(newCheckCommand())
	root.AddCommand(newServeCommand(), newReloadCommand(), newStatusCommand(), newLsCommand(), newExplainCommand(), newPolicyCommand(), config, newPipelineCommand(), newPasswordCommand(), newSecretCommand(),
		newDeviceCommand(), newPendingCommand(), newApproveCommand(), newDenyCommand(), newChallengeCommand(), newRevokeCommand(), newSettleCommand(), newCACommand(), newAuditCommand(),
		newCMPCommand(), newSCEPCommand(), newStoreCommand(), newBundleCommand(), newSimulateCommand(), newPluginCommand(), newVersionCommand())
	return root
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "muster "+version()) },
	}
}

// release is set when it is built, by -ldflags '-X main.release=v1.2.3': where the go command sees no repository, as in a container.
var release string

// version is release; else the module's as the go command recorded it: a tag, or the commit it was built from.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = "-" + s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+changes"
		}
	}
	return "devel" + revision + modified
}

// noArgs is cobra.NoArgs in words that fit: what stands there is no command.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes flags only, not %q: see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return nil
}
