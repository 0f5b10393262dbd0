package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
)

// lsFlags select what is listed.
type lsFlags struct {
	clientFlags
	states                      []string
	endpoint, device, requester string
	limit                       int
	refused, valid              bool
}

func newLsCommand() *cobra.Command {
	f := &lsFlags{}
	cmd := &cobra.Command{
		Use:   "ls [transactions|certificates]",
		Short: "List transactions, or certificates, the newest first",
		Long: `Lists what the running gateway did: transactions (requests and what became of them), or the certificates it had issued.
"muster explain ID" tells all about one.

Refusals of those who did not authenticate are kept in memory only, and listed with --refused or --state refused.`,
		Example:   "  muster ls\n  muster ls --state refused,failed\n  muster ls certificates --valid --device device-0001",
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"transactions", "certificates"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.limit < 1 {
				return fmt.Errorf("--limit %d: at least 1", f.limit)
			}
			certificates := len(args) == 1 && args[0] == "certificates"
			only := map[bool][]string{true: {"valid", "requester"}, false: {"state", "endpoint", "refused"}}
			for _, name := range only[!certificates] {
				if cmd.Flags().Changed(name) {
					return fmt.Errorf("--%s does not go with this list", name)
				}
			}
			list := f.listTransactions
			if certificates {
				list = f.listCertificates
			}
			return f.explained(list(cmd.Context(), cmd.OutOrStdout(), widthOf(cmd.OutOrStdout()), time.Now()))
		},
	}
	f.add(cmd)
	cmd.Flags().StringSliceVar(&f.states, "state", nil, "only transactions in these `STATES`: refused, held, issuing, queued, unknown, waiting, stuck, unconfirmed, forwarded, issued, rejected, failed, revoked, denied")
	cmd.Flags().StringVar(&f.endpoint, "endpoint", "", "only transactions of this `ENDPOINT`")
	cmd.Flags().StringVar(&f.device, "device", "", "only this `DEVICE`'s")
	cmd.Flags().StringVar(&f.requester, "requester", "", "only certificates that this `REQUESTER` asked for, as \"muster explain\" shows it")
	cmd.Flags().BoolVar(&f.refused, "refused", false, "list recent refusals of those who did not authenticate as well")
	cmd.Flags().BoolVar(&f.valid, "valid", false, "only certificates that are neither expired nor revoked")
	cmd.Flags().IntVar(&f.limit, "limit", 50, "how many")
	return cmd
}

// pageSize is how many rows are asked for at once.
const pageSize = 1000

// pages collects rows page by page until there are limit, or no more.
func pages[T any](limit int, page func(before string, limit int) (rows []T, next string, err error)) (all []T, more bool, err error) {
	all = []T{}
	before := ""
	for len(all) < limit {
		rows, next, err := page(before, min(limit-len(all), pageSize))
		if err != nil {
			return nil, false, err
		}
		all = append(all, rows...)
		if next == "" {
			return all, false, nil
		}
		before = next
	}
	return all, true, nil
}

func (f *lsFlags) listTransactions(ctx context.Context, w io.Writer, width int, _ time.Time) error {
	c := f.client()
	q := admin.TransactionQuery{
		States: f.states, Endpoint: f.endpoint, Device: f.device, Strangers: f.refused || slices.Contains(f.states, "refused"),
	}
	all, more, err := pages(f.limit, func(before string, limit int) ([]admin.Transaction, string, error) {
		q.Before, q.Limit = before, limit
		list, err := c.Transactions(ctx, q)
		if err != nil {
			return nil, "", err
		}
		return list.Transactions, list.Next, nil
	})
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(w, all)
	}
	t := &table{columns: []column{
		{title: "TRANSACTION"}, {title: "RECEIVED (UTC)"}, {title: "STATE"}, {title: "REQUEST", from: 105}, {title: "DEVICE OR SUBJECT", rest: 27, most: 40}, {title: "WHY", from: 120, rest: 10},
	}}
	for _, x := range all {
		who := x.Device
		if who == "" {
			who = x.Subject
		}
		t.row(x.ID, x.Received.UTC().Format("01-02 15:04:05"), x.State, x.Endpoint+" "+x.Operation, who, x.Note)
	}
	return t.print(w, width, "no transactions", more)
}

func (f *lsFlags) listCertificates(ctx context.Context, w io.Writer, width int, now time.Time) error {
	c := f.client()
	q := admin.CertificateQuery{Device: f.device, Requester: f.requester, Valid: f.valid}
	all, more, err := pages(f.limit, func(before string, limit int) ([]admin.Certificate, string, error) {
		q.Before, q.Limit = before, limit
		list, err := c.Certificates(ctx, q)
		if err != nil {
			return nil, "", err
		}
		return list.Certificates, list.Next, nil
	})
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(w, all)
	}
	t := &table{columns: []column{
		{title: "TRANSACTION"}, {title: "UNTIL"}, {title: "STATE"}, {title: "SUBJECT", rest: 27, most: 60}, {title: "SERIAL", from: 120},
	}}
	for _, x := range all {
		t.row(x.Transaction, x.NotAfter.UTC().Format(time.DateOnly), standing(&x, now), x.Subject, x.Serial)
	}
	return t.print(w, width, "no certificates", more)
}

// standing says whether a certificate is valid.
func standing(c *admin.Certificate, now time.Time) string {
	switch {
	case c.RevokedAt != nil:
		return "revoked"
	case now.After(c.NotAfter):
		return "expired"
	case now.Before(c.NotBefore):
		return "not yet"
	}
	return "valid"
}

// table writes rows in columns that fit the terminal; without one, nothing is left out or cut, and what is longer than
// its column is to be pushes the rest of its own row aside, not all rows'.
type table struct {
	columns []column
	rows    [][]string
}

type column struct {
	title string
	from  int // shown on terminals of at least so many columns
	rest  int // shares what is left, and is never narrower
	most  int // wide at most; 0 for no bound
}

func (t *table) row(cells ...string) {
	for i := range cells {
		cells[i] = words.Plain(cells[i])
	}
	t.rows = append(t.rows, cells)
}

const gap = 2

func (t *table) print(w io.Writer, width int, none string, more bool) error {
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(w, none)
		return err
	}
	var shown []int
	widths := make([]int, len(t.columns))
	left := width
	for i, c := range t.columns {
		if width > 0 && width < c.from {
			continue
		}
		shown = append(shown, i)
		widths[i] = utf8.RuneCountInString(c.title)
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
		if c.rest == 0 {
			left -= widths[i] + gap
		} else {
			left -= gap
			if width == 0 && c.most > 0 {
				widths[i] = min(widths[i], c.most)
			}
		}
	}
	if width > 0 {
		left += gap // none behind the last column
		for n, i := range shown {
			c := t.columns[i]
			if c.rest == 0 {
				continue
			}
			after := 0
			for _, j := range shown[n+1:] {
				after += t.columns[j].rest
			}
			most := max(left-after, c.rest)
			if c.most > 0 {
				most = min(most, c.most)
			}
			widths[i] = min(widths[i], most)
			left -= widths[i]
		}
	}
	var b strings.Builder
	line := func(cells func(i int) string) {
		text := ""
		for _, i := range shown {
			cell := cells(i)
			if width > 0 {
				cell = words.Cut(cell, widths[i])
			}
			text += cell + strings.Repeat(" ", max(widths[i]-utf8.RuneCountInString(cell), 0)+gap)
		}
		b.WriteString(strings.TrimRight(text, " ") + "\n")
	}
	line(func(i int) string { return t.columns[i].title })
	for _, row := range t.rows {
		line(func(i int) string { return row[i] })
	}
	if more {
		fmt.Fprintf(&b, "... and older ones: --limit %d\n", 4*len(t.rows))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
