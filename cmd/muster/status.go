package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
)

func newStatusCommand() *cobra.Command {
	f := &clientFlags{}
	cmd := &cobra.Command{
		Use: "status", Short: "Say whether the gateway can issue, and what keeps it from that", Args: noArgs,
		Long: "Says whether the gateway is ready, how its CA plugins are, and how far the sinks of the audit trail are. The exit code is 1 while it is not ready.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := f.client().Status(cmd.Context())
			if err != nil {
				return f.explained(err)
			}
			w := cmd.OutOrStdout()
			if f.json {
				err = printJSON(w, s)
			} else {
				_, err = io.WriteString(w, statusText(s))
			}
			if err == nil && !s.Ready {
				return exitCode(1)
			}
			return err
		},
	}
	f.add(cmd)
	return cmd
}

// statusText is a status, a line for each thing.
func statusText(s *admin.Status) string {
	var b strings.Builder
	line := func(format string, args ...any) { b.WriteString(words.Plain(fmt.Sprintf(format, args...)) + "\n") }
	if s.Ready {
		line("ready: instance %s, version %s, since %s", s.Instance, s.Version, s.Started.UTC().Format(time.RFC3339))
	} else {
		line("NOT READY: instance %s, version %s: %s", s.Instance, s.Version, s.NotReady)
	}
	for _, c := range s.Backends {
		why := "answers"
		if c.Error != "" {
			why = "DOES NOT ANSWER: " + c.Error
		}
		line("CA plugin %s: %s (restarted %d times)", c.Name, why, c.Restarts)
		if !c.LastHeard.IsZero() {
			line("  the gateway goes by what it last heard of this CA, at %s: %s", c.LastHeard.UTC().Format(time.RFC3339), c.Means)
		}
		if c.Queued > 0 {
			line("%s", queuedText(&c))
		}
	}
	for _, k := range s.Sinks {
		if k.Down.IsZero() {
			line("audit sink %s: well, %d records behind", k.Name, k.Lag)
		} else {
			line("audit sink %s: DOWN since %s, %d records behind: %s", k.Name, k.Down.UTC().Format(time.RFC3339), k.Lag, k.Error)
		}
	}
	return b.String()
}
