package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/authz"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/seal"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// pipelineFlags say which configuration is read, and how it is shown.
type pipelineFlags struct {
	config, data string
	operation    string
	ascii        bool
	json         bool
	mermaid      bool
}

// Widths of a drawing, in columns: where there is no terminal, and at least and at most where there is one.
const (
	plainWidth  = 80
	leastWidth  = 60
	mostColumns = 140
)

func newPipelineCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "pipeline", Short: "Draw what a request passes, from the configuration", SuggestFor: []string{"pipelines", "stages"}}
	cmd.AddCommand(newPipelineShowCommand(), newPipelineLsCommand())
	return cmd
}

func newPipelineShowCommand() *cobra.Command {
	f := &pipelineFlags{}
	cmd := &cobra.Command{
		Use: "show ENDPOINT", Short: "Draw the stages that requests pass at an endpoint",
		Long: `Draws, for each operation of an endpoint, the stages that a request passes, what each checks, and what comes behind them: the
profile, the lints, the CA. It reads the configuration file and the files that this names; no secret is shown. Where a gateway runs on
this machine from that data directory, and goes by another file, or another version of it, the drawing says so.`,
		Example: "  muster pipeline show devices --operation enroll",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New(`pipeline show wants one endpoint: "muster pipeline ls" lists them`)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.json && f.mermaid {
				return errors.New("give --json or --mermaid, not both")
			}
			var operations []gateway.Operation
			if f.operation != "" {
				op := gateway.Operation(f.operation)
				if !slices.Contains(gateway.Operations, op) {
					return fmt.Errorf("there is no operation %q%s", f.operation, strictyaml.Suggest(f.operation, operationNames()))
				}
				operations = append(operations, op)
			}
			c, endpoints, err := f.read()
			if err != nil {
				return err
			}
			name := args[0]
			if c.Endpoints[name] == nil {
				return fmt.Errorf("there is no endpoint %q in %s%s", name, c.file, strictyaml.Suggest(name, byName(c.Endpoints)))
			}
			v := c.view(endpoints[name])
			v.Running = f.running(cmd.Context(), c)
			if operations != nil {
				if v.Operations = slices.DeleteFunc(v.Operations, func(o operationView) bool { return !slices.Contains(o.Operations, operations[0]) }); len(v.Operations) == 0 {
					return fmt.Errorf("endpoint %s denies %s: it has no such pipeline", name, operations[0])
				}
				v.Denied = nil
			}
			return f.write(cmd.OutOrStdout(), v)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.operation, "operation", "", "only this `OP`: enroll, renew, rekey, revoke or query")
	cmd.Flags().BoolVar(&f.ascii, "ascii", false, "draw with ASCII characters alone")
	cmd.Flags().BoolVar(&f.mermaid, "mermaid", false, "write flowcharts for Mermaid, for documents")
	return cmd
}

func newPipelineLsCommand() *cobra.Command {
	f := &pipelineFlags{}
	cmd := &cobra.Command{
		Use: "ls", Short: "List the endpoints with their pipelines, a line each",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, endpoints, err := f.read()
			if err != nil {
				return err
			}
			all := make([]endpointView, 0, len(endpoints))
			for _, name := range byName(c.Endpoints) {
				all = append(all, c.view(endpoints[name]))
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), pipelineTable(all))
			return err
		},
	}
	f.add(cmd)
	return cmd
}

func (f *pipelineFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.config, "config", "", "the gateway's configuration `FILE` (default: DATA/muster.yaml)")
	cmd.Flags().StringVar(&f.data, "data", "", "the gateway's data `DIR` (default: "+defaultData+")")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
}

func (f *pipelineFlags) write(w io.Writer, v endpointView) error {
	switch {
	case f.json:
		return printJSON(w, v)
	case f.mermaid:
		_, err := io.WriteString(w, mermaid(v))
		return err
	}
	width := plainWidth
	if columns := widthOf(w); columns > 0 {
		width = min(max(columns, leastWidth), mostColumns)
	}
	_, err := io.WriteString(w, draw(v, width, f.ascii))
	return err
}

// read makes the endpoints of the configuration. One with a fault is not drawn: the fault is the error.
func (f *pipelineFlags) read() (*Config, map[string]*gateway.Endpoint, error) {
	file := f.config
	if file == "" {
		data, err := (&serveOptions{data: f.data}).dataDir()
		if err != nil {
			return nil, nil, err
		}
		if file = (quickstart{data}).config(); !holdsSomething(file) {
			return nil, nil, fmt.Errorf("there is no configuration %s: name one by --config FILE, or the gateway's data directory by --data DIR", file)
		}
	}
	c, err := loadConfig(file)
	if err != nil {
		return nil, nil, err
	}
	deps := stageDeps{
		Dir: c.dir, Certs: nothing{}, Secrets: nothing{}, Devices: nothing{}, Challenges: nothing{}, Opener: nothing{},
		Clock: time.Now, Log: slog.New(slog.DiscardHandler), Hashing: authz.NewHashing(1),
	}
	if c.Seal != nil {
		if deps.Opener, err = seal.Load(c.path(c.Seal.File), false); err != nil {
			return nil, nil, c.fault(at("seal", "file"), "%v", err)
		}
	}
	endpoints, err := makeEndpoints(c, deps)
	return c, endpoints, err
}

func operationNames() (names []string) {
	for _, op := range gateway.Operations {
		names = append(names, string(op))
	}
	return names
}
