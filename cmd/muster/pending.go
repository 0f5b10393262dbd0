package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/admin"
)

func newPendingCommand() *cobra.Command {
	f := &clientFlags{}
	limit := 0
	cmd := &cobra.Command{
		Use: "pending", Short: "List the requests that wait for approval",
		Long: `Lists the requests that a stage holds until somebody approves them. "muster explain ID" shows one whole, "muster approve ID"
and "muster deny ID" decide.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit %d: at least 1", limit)
			}
			w := cmd.OutOrStdout()
			return f.explained(listPending(cmd.Context(), f, limit, w, widthOf(w), time.Now()))
		},
	}
	f.add(cmd)
	cmd.Flags().IntVar(&limit, "limit", 50, "how many")
	return cmd
}

func listPending(ctx context.Context, f *clientFlags, limit int, w io.Writer, width int, now time.Time) error {
	c := f.client()
	all, more, err := pages(limit, func(before string, limit int) ([]admin.Transaction, string, error) {
		l, err := c.Transactions(ctx, admin.TransactionQuery{States: []string{string(gateway.StateHeld)}, Before: before, Limit: limit})
		if err != nil {
			return nil, "", err
		}
		return l.Transactions, l.Next, nil
	})
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(w, all)
	}
	t := &table{columns: []column{
		{title: "TRANSACTION"}, {title: "AGE"}, {title: "DEVICE OR SUBJECT", rest: 17, most: 50}, {title: "REQUEST", from: 110}, {title: "APPROVED"}, {title: "UNTIL (UTC)", from: 85}, {title: "BY", from: 120, rest: 10},
	}}
	for i := range all {
		x := &all[i]
		approved, by, until := "", "", ""
		if x.Hold != nil {
			approved, by = approvals(x.Hold)
			until = x.Hold.Until.UTC().Format("01-02 15:04")
		}
		who := x.Subject
		if x.Device != "" && x.Subject != "" {
			who = x.Device + ", " + x.Subject
		}
		t.row(x.ID, age(now.Sub(x.Received)), orElse(who, x.Device), over(x.Endpoint, x.Protocol)+" "+x.Operation, approved, until, by)
	}
	return t.print(w, width, "nothing waits for approval", more)
}

// approvals says how many have approved of how many who have to, and who.
func approvals(h *admin.Hold) (count, by string) {
	var names []string
	for _, a := range h.Approvals {
		names = append(names, a.By)
	}
	return fmt.Sprintf("%d of %d", len(h.Approvals), h.Approvers), strings.Join(names, ", ")
}

// age is a period in its largest unit, as lists have it.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", max(d, 0)/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

func newApproveCommand() *cobra.Command {
	f := &clientFlags{}
	reason := ""
	cmd := &cobra.Command{
		Use: "approve ID", Short: "Approve a held request: with the last approval that it takes, its certificate is issued",
		Long: `Approves a request that waits in "muster pending"; 6 characters of the beginning or end of its ID will do. Where several have to
approve, each does so once. What is issued is what was held; the device gets it when it asks again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := f.client().Approve(cmd.Context(), args[0], reason)
			if err != nil {
				return f.explained(err)
			}
			w := cmd.OutOrStdout()
			if f.json {
				err = printJSON(w, x)
			} else {
				_, err = io.WriteString(w, approved(x))
			}
			if err == nil && gateway.State(x.State) == gateway.StateFailed {
				return exitCode(1)
			}
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` for the audit trail")
	return cmd
}

func newDenyCommand() *cobra.Command {
	f := &clientFlags{}
	reason := ""
	cmd := &cobra.Command{
		Use: "deny ID --reason TEXT", Short: "Deny a held request: nothing is issued",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := f.client().Deny(cmd.Context(), args[0], reason)
			switch {
			case err != nil:
				return f.explained(err)
			case f.json:
				return printJSON(cmd.OutOrStdout(), x)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), denied(x))
			return err
		},
	}
	f.narrowing = []string{"reason"}
	f.add(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` that says why: kept with the request and in the audit trail; the device is not told")
	cmd.MarkFlagRequired("reason") //nolint:errcheck // it is there
	return cmd
}

// whatWasAsked is a held request in a few lines.
func whatWasAsked(a *story, x *admin.Transaction) {
	a.row("Transaction", x.ID)
	a.row("Device", x.Device)
	a.row("Requester", x.Requester)
	a.row("Request", fmt.Sprintf("%s at endpoint %s (%s)", x.Operation, x.Endpoint, x.Protocol))
	a.row("Subject", x.Subject)
	if g := x.Granted; g != nil {
		a.row("Alt names", strings.Join(g.SubjectAltName, ", "))
		a.row("Key", g.Key)
	}
}

// approved says what was approved, and what became of it.
func approved(x *admin.Transaction) string {
	a := &story{}
	h := x.Hold
	if h == nil {
		h = &admin.Hold{Approvers: 1}
	}
	count, by := approvals(h)
	switch state := gateway.State(x.State); {
	case state == gateway.StateHeld:
		a.printf("Approved, %s: it waits for another one until %s\n", count, words.Moment(h.Until))
	case state == gateway.StateApproved:
		a.printf("Approved: the device gets its key and certificate when it asks again, until %s\n", words.Moment(h.Until))
	case state == gateway.StateFailed:
		a.printf("Approved, but the CA %s issued nothing%s\n", x.Backend, ending(x.Note))
	case x.Certificate != nil:
		a.printf("Approved and issued: the device gets its certificate when it asks again\n")
	default:
		a.printf("Approved: %s%s\n", orElse(states[state], x.State), ending(x.Note))
	}
	a.printf("\n")
	whatWasAsked(a, x)
	a.row("Approved by", by)
	if c := x.Certificate; c != nil {
		a.row("Serial", c.Serial)
		a.row("Period", words.Moment(c.NotBefore)+" to "+words.Moment(c.NotAfter))
	}
	return a.text.String()
}

func denied(x *admin.Transaction) string {
	a := &story{}
	a.printf("Denied: nothing is issued, and the device is refused when it asks again\n\n")
	whatWasAsked(a, x)
	if x.Hold != nil && x.Hold.Denied != nil {
		a.row("Denied by", x.Hold.Denied.By)
		a.row("Because", x.Hold.Denied.Reason)
	}
	return a.text.String()
}
