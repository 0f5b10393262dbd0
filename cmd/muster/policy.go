package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/authz/policy"
	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func newPolicyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Try the rules of the stage policy, and list what they can read"}
	cmd.AddCommand(newPolicyTestCommand(), newPolicyFieldsCommand())
	return cmd
}

// policyFlags say what is tried on what.
type policyFlags struct {
	clientFlags
	request   string
	endpoint  string
	operation string
}

// Exit codes of `muster policy test`, beside 0 (allow) and 1 (it could not be tried).
const (
	exitDenied       = 2
	exitHeld         = 3
	exitCannotAnswer = 4
)

func newPolicyTestCommand() *cobra.Command {
	f := &policyFlags{}
	cmd := &cobra.Command{
		Use:   "test FILE --request ID|request.json",
		Short: "Say what each rule says of a request, and what comes of it",
		Long: `Tries rules on a request and says of each whether its condition holds, and what it looked at. Nothing is decided or changed.

FILE is a file of rules, or a whole configuration: then the stages policy of the request's endpoint and operation are tried, each for
itself. The request is one that the gateway remembers, by its ID, or a file of JSON ("-" is standard input), as "muster explain ID
--json" prints it. It is judged as it stood when it was decided: by that time, with what all stages had found.

The exit code is 0 for allow, 2 for deny, 3 for hold, 4 where a rule cannot answer, and 1 where nothing could be tried.`,
		Example: `  muster policy test policy.yaml --request 06gzxpxg
  muster policy test muster.yaml --request request.json --endpoint ran`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.request == "" {
				return errors.New(`--request is missing: the ID of a request, as in "muster ls", or a file of JSON`)
			}
			facts, err := f.facts(cmd.Context(), cmd.InOrStdin())
			if err != nil {
				return err
			}
			tried, err := f.policies(args[0], facts)
			if err != nil {
				return err
			}
			return tryPolicies(cmd, f.json, tried, facts)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.request, "request", "", "the request: its `ID`, or a file of JSON")
	cmd.Flags().StringVar(&f.endpoint, "endpoint", "", "of a configuration: the stages of this endpoint `NAME`, not the request's")
	cmd.Flags().StringVar(&f.operation, "operation", "", "of a configuration: the stages of this operation `OP`, not the request's")
	return cmd
}

// facts are those of the request that is meant.
func (f *policyFlags) facts(ctx context.Context, stdin io.Reader) (*gateway.Facts, error) {
	read := func(name string, r io.Reader) (*gateway.Facts, error) {
		data, err := io.ReadAll(io.LimitReader(r, policy.MaxFacts+1))
		if err != nil {
			return nil, err
		}
		facts, err := policy.ReadFacts(data)
		if err != nil {
			return nil, harmless{fmt.Errorf("%s: %w", name, err)}
		}
		return facts, nil
	}
	if f.request == "-" {
		return read("standard input", stdin)
	}
	if file, err := os.Open(f.request); err == nil {
		defer file.Close()
		return read(f.request, file)
	} else if strings.ContainsAny(f.request, "./") {
		return nil, err
	}
	t, err := f.client().Explain(ctx, f.request)
	if err != nil {
		return nil, f.explained(err)
	}
	var kept gateway.Facts
	if len(t.Facts) == 0 || json.Unmarshal(t.Facts, &kept) == nil && kept.Request.Partial {
		return nil, fmt.Errorf("the gateway keeps no facts of %s: it was refused before a stage saw it, or had too many", t.ID)
	}
	return read(t.ID, strings.NewReader(string(t.Facts)))
}

// placedPolicy is a policy with where it stands.
type placedPolicy struct {
	where string
	rules *policy.Policy
}

// policies are those of a file of rules, or of a configuration.
func (f *policyFlags) policies(file string, facts *gateway.Facts) ([]placedPolicy, error) {
	data, err := strictyaml.ReadFile("", file, maxConfigurationLength)
	if err != nil {
		return nil, err
	}
	root, err := strictyaml.Parse(file, data)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if key := root.Content[i].Value; key == "endpoints" || key == "version" {
			return f.configured(file, facts)
		}
	}
	if f.endpoint != "" || f.operation != "" {
		return nil, fmt.Errorf("--endpoint and --operation go with a configuration, and %s is a file of rules", file)
	}
	rules, err := policy.Parse(file, data)
	return []placedPolicy{{file, rules}}, err
}

// configured are the policies of an endpoint and operation of a configuration.
func (f *policyFlags) configured(file string, facts *gateway.Facts) ([]placedPolicy, error) {
	c, err := loadConfig(file)
	if err != nil {
		return nil, err
	}
	name, op := orElse(f.endpoint, facts.Request.Endpoint), orElse(f.operation, facts.Request.Operation)
	e := c.Endpoints[name]
	if e == nil {
		return nil, fmt.Errorf("%s: there is no endpoint %q%s; --endpoint NAME says which", file, words.Plain(name), strictyaml.Suggest(name, byName(c.Endpoints)))
	}
	nodes, given := e.stages(gateway.Operation(op))
	if !given {
		var known []string
		for _, op := range gateway.Operations {
			if _, given := e.stages(op); given {
				known = append(known, string(op))
			}
		}
		return nil, fmt.Errorf("%s: the endpoint %s has no pipeline %q%s; --operation OP says which", file, name, words.Plain(op), strictyaml.Suggest(op, known))
	}
	all, err := c.policiesIn(pipelineNodes(nodes), strings.Join(at("endpoints", name, op), "."))
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("%s: endpoints.%s.%s has no stage policy", file, name, op)
	}
	return all, err
}

func tryPolicies(cmd *cobra.Command, asJSON bool, policies []placedPolicy, facts *gateway.Facts) error {
	outcome := gateway.Allow
	var shown []triedPolicy
	for _, p := range policies {
		asked := *facts
		tried, d := p.rules.Try(cmd.Context(), &asked)
		shown = append(shown, triedOf(p.where, tried, d))
		if outcome == gateway.Allow || outcome == gateway.Hold && d.Decision != gateway.Allow {
			outcome = d.Decision
		}
	}
	if asJSON {
		if err := printJSON(cmd.OutOrStdout(), map[string]any{"outcome": outcome, "policies": shown}); err != nil {
			return err
		}
	} else if err := printTried(cmd.OutOrStdout(), shown, outcome); err != nil {
		return err
	}
	switch outcome {
	case gateway.Allow:
		return nil
	case gateway.Deny:
		return exitCode(exitDenied)
	case gateway.Hold:
		return exitCode(exitHeld)
	}
	return exitCode(exitCannotAnswer)
}

func newPolicyFieldsCommand() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use: "fields", Short: "List what rules can read, with types and meaning", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(cmd.OutOrStdout(), policy.Fields())
			}
			return printFields(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
