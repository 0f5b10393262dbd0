//go:build cas

package cas

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
)

// backendRow is what a real CA did, in a few words each: "yes", "yes: RSA and EC", "refused when loaded", "no: it has none".
type backendRow struct {
	Backend         string // as in `plugin:`, and what stood behind it: "stepca (step-ca 0.30.2)"
	PKCS10          string // issue from PKCS#10
	CRMF            string // issue from CRMF
	Renew           string
	Revoke          string
	Poll            string
	CRL             string
	CAChain         string
	IdempotentRetry string // what Describe says, and what came of a request whose answer was lost
	Command         string // go test -tags cas -run ... ./e2e/cas; "" for the test's own
}

// table holds the rows of the tests that ran.
var table struct {
	mu   sync.Mutex
	rows []backendRow
}

// row adds a line to the table that is printed when all tests have ended. A test calls it once, when it has seen what it says; one
// that failed has no row. Every column is said.
func row(t *testing.T, r backendRow) {
	t.Helper()
	if t.Failed() {
		return
	}
	r.Command = cmp.Or(r.Command, "go test -tags cas -run '^"+t.Name()+"$' ./e2e/cas")
	for i, text := range r.columns() {
		if text == "" {
			t.Errorf("the row says nothing of %q", columns[i])
		}
	}
	table.mu.Lock()
	defer table.mu.Unlock()
	table.rows = append(table.rows, r)
}

var columns = []string{"Backend", "Issue from PKCS#10", "Issue from CRMF", "Renew", "Revoke", "Poll", "CRL", "CA chain", "Idempotent retry"}

func (r backendRow) columns() []string {
	return []string{r.Backend, r.PKCS10, r.CRMF, r.Renew, r.Revoke, r.Poll, r.CRL, r.CAChain, r.IdempotentRetry}
}

// printTable writes the rows as Markdown, sorted, and then the command of each.
func printTable(w io.Writer) {
	table.mu.Lock()
	defer table.mu.Unlock()
	if len(table.rows) == 0 {
		return
	}
	slices.SortFunc(table.rows, func(a, b backendRow) int { return strings.Compare(a.Backend, b.Backend) })
	line := func(cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	line(columns)
	line(slices.Repeat([]string{"---"}, len(columns)))
	for _, r := range table.rows {
		line(r.columns())
	}
	fmt.Fprintln(w)
	for _, r := range table.rows {
		fmt.Fprintf(w, "%s: %s\n", r.Backend, r.Command)
	}
}
