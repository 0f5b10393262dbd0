package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

func newChallengeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "challenge", Short: "Make one-time challenges for enrollments, list them, take them away",
		Long: `Challenges that are good for one enrollment, or as many as said: a SCEP client sends one as its challengePassword, an EST client
in the attribute of that name. They are good at endpoints whose stage challenge says "issued: true".`,
	}
	cmd.AddCommand(newChallengeNewCommand(), newChallengeLsCommand(), newChallengeRmCommand())
	return cmd
}

func newChallengeNewCommand() *cobra.Command {
	f := &clientFlags{}
	var n admin.NewChallenge
	expires := ""
	cmd := &cobra.Command{
		Use: "new --endpoint NAME", Short: "Make a challenge, and print it this once",
		Long: `Makes a challenge. On a terminal it is shown with what it is good for; elsewhere it stands alone on standard output, as in
CHALLENGE=$(muster challenge new --endpoint phones).`,
		Example: "  muster challenge new --endpoint phones --device phone-7 --expires 2h\n  muster challenge new --endpoint phones --subject CN=phone-7,O=Acme --profile vpn",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			period, err := strictyaml.ParseDuration(expires)
			if err != nil || period == 0 {
				return fmt.Errorf("--expires %s: want a period such as 12h or 30d", expires)
			}
			if n.Uses < 1 {
				return fmt.Errorf("--uses %d: at least 1", n.Uses)
			}
			until := time.Now().Add(time.Duration(period)).UTC()
			n.NotAfter = &until
			made, err := f.client().NewChallenge(cmd.Context(), n)
			if err != nil {
				return f.explained(err)
			}
			w := cmd.OutOrStdout()
			switch {
			case f.json:
				return printJSON(w, made)
			case widthOf(w) == 0:
				_, err = fmt.Fprintln(w, words.Plain(made.Challenge))
			default:
				_, err = io.WriteString(w, challengeScreen(made))
			}
			return err
		},
	}
	f.narrowing = []string{"endpoint", "device", "subject", "profile"}
	f.add(cmd)
	cmd.Flags().StringVar(&n.Endpoint, "endpoint", "", "the `ENDPOINT` where it is good")
	cmd.Flags().StringVar(&n.Device, "device", "", "the `DEVICE` whose enrollment it is")
	cmd.Flags().StringVar(&n.Subject, "subject", "", "the one `SUBJECT` that it is good for, e.g. CN=phone-7,O=Acme")
	cmd.Flags().StringVar(&n.Profile, "profile", "", "the `PROFILE` that it gives (default: the endpoint's)")
	cmd.Flags().Int64Var(&n.Uses, "uses", 1, "for how many enrollments it is good")
	cmd.Flags().StringVar(&expires, "expires", "24h", "for this `PERIOD` it is good")
	cmd.MarkFlagRequired("endpoint") //nolint:errcheck // it is there
	return cmd
}

// challengeScreen is what a person is shown of a new challenge.
func challengeScreen(c *admin.Challenge) string {
	a := &story{}
	a.printf("%s\n\n", c.Challenge)
	a.row("Good at", "endpoint "+c.Endpoint)
	a.row("For", words.Counted(int(c.Uses), "enrollment"))
	a.row("Until", words.Moment(c.NotAfter))
	a.row("Device", c.Device)
	a.row("Subject", c.Subject)
	a.row("Profile", c.Profile)
	a.printf("\nIt is shown this once. The device sends it as challengePassword (SCEP, EST).\n")
	a.printf("Take it back: muster challenge rm %s\n", c.ID)
	return a.text.String()
}

func newChallengeLsCommand() *cobra.Command {
	f := &clientFlags{}
	q := admin.ChallengeQuery{}
	limit := 0
	cmd := &cobra.Command{
		Use: "ls", Short: "List challenges: what they are for, not what they are", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit %d: at least 1", limit)
			}
			c := f.client()
			all, more, err := pages(limit, func(before string, limit int) ([]admin.Challenge, string, error) {
				q.Before, q.Limit = before, limit
				l, err := c.Challenges(cmd.Context(), q)
				if err != nil {
					return nil, "", err
				}
				return l.Challenges, l.Next, nil
			})
			if err != nil {
				return f.explained(err)
			}
			w := cmd.OutOrStdout()
			if f.json {
				return printJSON(w, all)
			}
			t := &table{columns: []column{
				{title: "CHALLENGE"}, {title: "ENDPOINT"}, {title: "USED"}, {title: "GOOD UNTIL (UTC)"}, {title: "DEVICE OR SUBJECT", from: 80, rest: 17, most: 50}, {title: "PROFILE", from: 110}, {title: "BY", from: 120, rest: 8},
			}}
			for _, x := range all {
				until := x.NotAfter.UTC().Format(time.DateTime)
				if time.Now().After(x.NotAfter) {
					until += ", over"
				}
				t.row(x.ID, x.Endpoint, fmt.Sprintf("%d of %d", x.Used, x.Uses), until, orElse(x.Device, x.Subject), x.Profile, x.By)
			}
			return t.print(w, widthOf(w), "no challenges", more)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&q.Endpoint, "endpoint", "", "only those of this `ENDPOINT`")
	cmd.Flags().BoolVar(&q.Expired, "expired", false, "list those too whose time is over")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many")
	return cmd
}

func newChallengeRmCommand() *cobra.Command {
	f := &clientFlags{}
	cmd := &cobra.Command{
		Use: "rm ID", Short: "Take a challenge away: requests with it are refused from then on", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.client().DropChallenge(cmd.Context(), args[0]); err != nil {
				return f.explained(err)
			}
			if f.json {
				return printJSON(cmd.OutOrStdout(), map[string]string{"id": args[0]})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "challenge %s is removed\n", words.Plain(args[0]))
			return nil
		},
	}
	f.add(cmd)
	return cmd
}
