package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/muster-pki/muster/cmd/muster/devicefile"
	"github.com/muster-pki/muster/cmd/muster/words"
	"github.com/muster-pki/muster/gateway/admin"
)

// deviceHistory is one device with all that it did, over every protocol.
type deviceHistory struct {
	Device       *admin.Device       `json:"device,omitempty"` // absent: it is not in the inventory
	Certificates []admin.Certificate `json:"certificates"`     // newest first
	Transactions []admin.Transaction `json:"transactions"`     // newest first

	name                 string
	moreCerts, moreTrans bool
}

// Rows of the lists of `muster device show`.
const (
	shownCertificates = 20
	shownTransactions = 15
)

func newDeviceShowCommand() *cobra.Command {
	f := &clientFlags{}
	limit := 0
	cmd := &cobra.Command{
		Use: "show NAME|IDENTIFIER", Short: "Show a device: its entry, its certificates of all protocols, and what it asked for",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return fmt.Errorf("--limit %d: at least 1", limit)
			}
			h, err := historyOf(cmd.Context(), f.client(), args[0], limit)
			if err != nil {
				return f.explained(err)
			}
			w := cmd.OutOrStdout()
			if f.json {
				return printJSON(w, h)
			}
			text, err := h.screen(widthOf(w), time.Now())
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(w, text)
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().IntVar(&limit, "limit", 0, fmt.Sprintf("how many certificates, and transactions (default %d and %d)", shownCertificates, shownTransactions))
	return cmd
}

// historyOf gathers what is known of a device. One that is not in the inventory has a history all the same, when it has
// certificates or asked for some.
func historyOf(ctx context.Context, c *admin.Client, name string, limit int) (*deviceHistory, error) {
	h := &deviceHistory{name: name}
	d, absent := c.Device(ctx, name)
	switch e, ok := errors.AsType[*admin.Error](absent); {
	case absent == nil:
		h.Device, h.name = d, d.Name
	case !ok || e.Status != 404:
		return nil, absent
	}
	nCerts, nTrans := shownCertificates, shownTransactions
	if limit > 0 {
		nCerts, nTrans = limit, limit
	}
	var err error
	h.Certificates, h.moreCerts, err = pages(nCerts, func(before string, limit int) ([]admin.Certificate, string, error) {
		l, err := c.Certificates(ctx, admin.CertificateQuery{Device: h.name, Before: before, Limit: limit})
		if err != nil {
			return nil, "", err
		}
		return l.Certificates, l.Next, nil
	})
	if err != nil {
		return nil, err
	}
	h.Transactions, h.moreTrans, err = pages(nTrans, func(before string, limit int) ([]admin.Transaction, string, error) {
		l, err := c.Transactions(ctx, admin.TransactionQuery{Device: h.name, Before: before, Limit: limit})
		if err != nil {
			return nil, "", err
		}
		return l.Transactions, l.Next, nil
	})
	if err != nil {
		return nil, err
	}
	if h.Device == nil && len(h.Certificates)+len(h.Transactions) == 0 {
		return nil, absent
	}
	return h, nil
}

// screen is all of it for a person.
func (h *deviceHistory) screen(width int, now time.Time) (string, error) {
	a := &story{}
	a.printf("%s\n\n", h.summary(now))
	h.entry(a)
	a.printf("\nCertificates\n")
	t := &table{columns: []column{
		{title: "  SERIAL", rest: 18, most: 42}, {title: "STATE"}, {title: "UNTIL"}, {title: "ENDPOINT"}, {title: "SUBJECT", from: 80, rest: 16, most: 50}, {title: "TRANSACTION", from: 130},
	}}
	protocols := map[string]string{}
	for _, x := range h.Transactions {
		protocols[x.ID] = x.Protocol
	}
	for i := range h.Certificates {
		c := &h.Certificates[i]
		t.row("  "+c.Serial, standing(c, now), c.NotAfter.UTC().Format(time.DateOnly), over(c.Endpoint, protocols[c.Transaction]), c.Subject, c.Transaction)
	}
	if err := t.print(&a.text, width, "  none", false); err != nil {
		return "", err
	}
	a.further(h.moreCerts)
	a.printf("\nTransactions\n")
	t = &table{columns: []column{
		{title: "  TRANSACTION"}, {title: "RECEIVED (UTC)"}, {title: "STATE"}, {title: "REQUEST", from: 90}, {title: "WHY", from: 110, rest: 10},
	}}
	for _, x := range h.Transactions {
		t.row("  "+x.ID, x.Received.UTC().Format(time.DateTime), x.State, over(x.Endpoint, x.Protocol)+" "+x.Operation, x.Note)
	}
	if err := t.print(&a.text, width, "  none", false); err != nil {
		return "", err
	}
	a.further(h.moreTrans)
	return a.text.String(), nil
}

func (a *story) further(more bool) {
	if more {
		a.printf("  ... and older ones: --limit N\n")
	}
}

// over is an endpoint with its protocol, where that is known.
func over(endpoint, protocol string) string {
	if protocol == "" {
		return endpoint
	}
	return endpoint + " (" + protocol + ")"
}

// summary is the one line.
func (h *deviceHistory) summary(now time.Time) string {
	valid := 0
	for i := range h.Certificates {
		if standing(&h.Certificates[i], now) == "valid" {
			valid++
		}
	}
	certs := words.Counted(valid, "valid certificate")
	if h.moreCerts {
		certs = "at least " + certs
	}
	if h.Device == nil {
		return fmt.Sprintf("Device %s is not in the inventory, and has %s", h.name, certs)
	}
	state := map[string]string{"good": "may ask for certificates", "disabled": "is disabled", "expired": "is past its time", "not yet": "is not good yet"}[deviceState(h.Device, now)]
	return fmt.Sprintf("Device %s %s, and has %s", h.name, state, certs)
}

// entry shows what the inventory says.
func (h *deviceHistory) entry(a *story) {
	d := h.Device
	if d == nil {
		return
	}
	for _, id := range d.Identifiers {
		a.row(id.Kind, id.Value)
	}
	a.row("Vendor", d.Vendor)
	a.row("Endpoints", orElse(strings.Join(d.Endpoints, ", "), "all"))
	a.row("Profiles", orElse(strings.Join(d.Profiles, ", "), "what the endpoint gives"))
	if d.Enrollments == 0 {
		a.row("Enrolled", fmt.Sprintf("%d, of as many as the stage inventory says", d.Enrolled))
	} else {
		a.row("Enrolled", enrolled(d))
	}
	for _, what := range slices.Sorted(maps.Keys(d.Limits)) {
		label, per, issued := strings.Cut(what, ":")
		if issued {
			label += " per " + per
		}
		a.row("Limits", fmt.Sprintf("%d %s", d.Limits[what], label))
	}
	if d.NotBefore != nil {
		a.row("Good from", words.Moment(*d.NotBefore))
	}
	if d.NotAfter != nil {
		a.row("Good until", words.Moment(*d.NotAfter))
	}
	if d.HasPassword {
		a.row("Password", map[bool]string{true: "one-time, used up", false: "one-time, good"}[d.PasswordUsed])
	}
	if d.HasSecret {
		a.row("Secret", "shared, sealed")
	}
	for _, name := range slices.Sorted(maps.Keys(d.Attributes)) {
		a.row(devicefile.AttrPrefix+name, d.Attributes[name])
	}
	a.row("Note", d.Note)
	if d.Created != nil {
		changed := ""
		if d.Updated != nil && d.Updated.After(*d.Created) {
			changed = ", changed " + words.Moment(*d.Updated)
		}
		a.row("Added", words.Moment(*d.Created)+changed)
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
