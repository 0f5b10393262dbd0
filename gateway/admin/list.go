package admin

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/muster-pki/muster/gateway"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
)

func limitOf(s string) (int, error) {
	if s == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxLimit {
		return 0, badRequest("limit is 1 to %d", maxLimit)
	}
	return n, nil
}

func (s *Server) transactions(c echo.Context) error {
	q, err := known(c, "state", "endpoint", "device", "limit", "before", "refused")
	if err != nil {
		return err
	}
	f := gateway.TransactionFilter{Endpoint: q["endpoint"], Device: q["device"], Before: q["before"]}
	if f.Limit, err = limitOf(q["limit"]); err != nil {
		return err
	}
	if f.Before != "" && !gateway.ValidID(f.Before) {
		return badRequest("before is a whole transaction ID")
	}
	if q["state"] != "" {
		for word := range strings.SplitSeq(q["state"], ",") {
			if !slices.Contains(gateway.States[:], gateway.State(word)) {
				return badRequest("no state %q (known: %s)", word, joinStates())
			}
			f.States = append(f.States, gateway.State(word))
		}
	}
	if q["refused"] != "" && q["refused"] != "recent" {
		return badRequest(`refused is "recent" or absent`)
	}
	found, err := s.config.Store.Transactions(c.Request().Context(), f)
	if err != nil {
		return err
	}
	list := TransactionList{Transactions: []Transaction{}}
	for _, t := range found {
		list.Transactions = append(list.Transactions, transactionOf(t, false, false))
	}
	if q["refused"] == "recent" {
		list.Transactions = mergeStrangers(list.Transactions, s.config.Gateway.Strangers(maxStrangers), f)
	}
	// The store may have had more, or we have cut.
	if len(found) == f.Limit || len(list.Transactions) > f.Limit {
		list.Transactions = list.Transactions[:f.Limit]
		list.Next = list.Transactions[f.Limit-1].ID
	}
	return c.JSON(http.StatusOK, list)
}

// maxStrangers is more than a gateway remembers.
const maxStrangers = 1 << 16

// mergeStrangers adds the remembered refusals that the filter selects, the newest first. IDs sort by time.
func mergeStrangers(list []Transaction, strangers []*gateway.Transaction, f gateway.TransactionFilter) []Transaction {
	for _, t := range strangers {
		switch {
		case len(f.States) > 0 && !slices.Contains(f.States, t.State), f.Endpoint != "" && f.Endpoint != t.Endpoint,
			f.Device != "" && f.Device != t.Device, f.Before != "" && t.ID >= f.Before:
			continue
		}
		list = append(list, transactionOf(t, true, false))
	}
	slices.SortStableFunc(list, func(a, b Transaction) int { return cmp.Compare(b.ID, a.ID) })
	return slices.CompactFunc(list, func(a, b Transaction) bool { return a.ID == b.ID })
}

func joinStates() string { return strings.Join(States(), ", ") }

// States are the states of a transaction, as /v1 names them.
func States() []string {
	words := make([]string, len(gateway.States))
	for i, s := range gateway.States {
		words[i] = string(s)
	}
	return words
}

func (s *Server) explain(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	t, err := s.find(c.Request().Context(), param(c, "id"))
	if err != nil {
		return err
	}
	return s.showTransaction(c, t)
}

// showTransaction answers with all that is known of one.
func (s *Server) showTransaction(c echo.Context, t *gateway.Transaction) error {
	remembered := slices.ContainsFunc(s.config.Gateway.Strangers(maxStrangers), func(x *gateway.Transaction) bool { return x.ID == t.ID })
	out := transactionOf(t, remembered, true)
	if !remembered {
		messages, err := s.config.Store.Messages(c.Request().Context(), t.ID)
		if err != nil {
			return err
		}
		out.Messages = messagesOf(messages)
	}
	return c.JSON(http.StatusOK, out)
}

func (s *Server) certificates(c echo.Context) error {
	q, err := known(c, "device", "requester", "valid", "limit", "before")
	if err != nil {
		return err
	}
	f := gateway.CertificateFilter{Device: q["device"], Requester: q["requester"], Before: q["before"]}
	if f.Limit, err = limitOf(q["limit"]); err != nil {
		return err
	}
	if f.Before != "" && !gateway.ValidID(f.Before) {
		return badRequest("before is a whole transaction ID")
	}
	switch q["valid"] {
	case "":
	case "now":
		f.ValidAt = s.config.Clock()
	default:
		return badRequest(`valid is "now" or absent`)
	}
	found, err := s.config.Store.Certificates(c.Request().Context(), f)
	if err != nil {
		return err
	}
	list := CertificateList{Certificates: []Certificate{}}
	for _, cert := range found {
		list.Certificates = append(list.Certificates, certificateOf(cert, false))
	}
	if len(found) == f.Limit {
		list.Next = found[len(found)-1].Transaction
	}
	return c.JSON(http.StatusOK, list)
}

func (s *Server) status(c echo.Context) error {
	if _, err := known(c); err != nil {
		return err
	}
	ctx := c.Request().Context()
	now := s.config.Clock()
	out := Status{
		Version: s.config.Version, Instance: s.config.Instance, Started: s.started.UTC(),
		Uptime: int64(now.Sub(s.started) / time.Second), Ready: true, Backends: []Backend{},
	}
	err := s.config.Gateway.Ready(ctx)
	if err == nil && s.config.Ready != nil {
		err = s.config.Ready(ctx)
	}
	if err != nil {
		out.Ready, out.NotReady = false, err.Error()
	}
	if s.config.Started() {
		running := s.config.Configuration()
		out.Configuration = &running
	}
	out.Backends = append(out.Backends, s.config.Backends(ctx)...)
	if s.config.Sinks != nil {
		out.Sinks = s.config.Sinks(ctx)
	}
	slices.SortFunc(out.Backends, func(a, b Backend) int { return cmp.Compare(a.Name, b.Name) })
	return c.JSON(http.StatusOK, out)
}
