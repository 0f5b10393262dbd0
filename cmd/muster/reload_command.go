package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
)

func newReloadCommand() *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use: "reload", Short: "Have the running gateway read its configuration again",
		Long: `Has the running gateway read its configuration, and the files that it names, again. All of it is put into force, and what changed
is printed; or none of it, and what is wrong is printed as "muster config check" does. Requests under way end with the configuration
that they began with.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := f.client().Reload(cmd.Context())
			if wrong, ok := errors.AsType[*admin.Error](err); ok && wrong.Status == http.StatusUnprocessableEntity {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s\nnothing has changed\n", harmless{err})
				return exitCode(1)
			}
			if err != nil {
				return f.explained(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), done)
			}
			tellReload(cmd.OutOrStdout(), done)
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

// tellReload prints what changed.
func tellReload(w io.Writer, r *admin.Reload) {
	fmt.Fprintf(w, "%s is in force, sha256 %s\n", words.Plain(r.Configuration.File), words.Plain(r.Configuration.SHA256))
	changed := reloadLines(r)
	if len(changed) == 0 {
		fmt.Fprintln(w, "  nothing in it has changed")
	}
	for _, line := range changed {
		fmt.Fprintln(w, "  "+words.Plain(line))
	}
}
