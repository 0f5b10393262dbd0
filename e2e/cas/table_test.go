//go:build cas

package cas

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/muster-pki/muster/e2e/running"
)

// backendRow is what a real CA did, in a few words each: "yes", "yes: RSA and EC", "refused when loaded", "no: it has none". A cell is
// what the test has seen by then, or "not tried".
type backendRow struct {
	Backend  string // as in `plugin:`, and what stood behind it: "stepca (step-ca 0.30.2)"
	PKCS10   string // issue from PKCS#10
	CRMF     string // issue from CRMF
	Renew    string
	Revoke   string
	Poll     string
	CRL      string
	CAChain  string
	Describe string // what Describe says of idempotency
	Crashes  deaths
	Retry    string // of an idempotent retry, where there are no Crashes
	Command  string // go test -tags cas -run ... ./e2e/cas; "" for the test's own
}

const notTried = "not tried"

// table holds the rows of the tests that ran.
var table struct {
	mu   sync.Mutex
	rows []backendRow
}

// row adds a line to the tables that are printed when all tests have ended. A test calls it once, when it has seen what it says; one
// that failed has no row. Every column is said.
func row(t *testing.T, r backendRow) {
	t.Helper()
	if t.Failed() {
		return
	}
	r.Command = cmp.Or(r.Command, "go test -tags cas -run '^"+t.Name()+"$' ./e2e/cas")
	for i, text := range slices.Concat(r.facts(), []string{r.Describe}) {
		if text == "" {
			t.Errorf("the row says nothing of %q", append(slices.Clone(factColumns), "Describe")[i])
		}
	}
	table.mu.Lock()
	defer table.mu.Unlock()
	table.rows = append(table.rows, r)
}

var (
	factColumns  = []string{"Backend", "Issue from PKCS#10", "Issue from CRMF", "Renew", "Revoke", "Poll", "CRL", "CA chain", "Idempotent retry"}
	crashColumns = slices.Concat([]string{"Backend", "`Describe`"}, crashPoints, []string{answerLost})
)

func (r backendRow) facts() []string {
	return []string{r.Backend, r.PKCS10, r.CRMF, r.Renew, r.Revoke, r.Poll, r.CRL, r.CAChain, r.retry()}
}

// retry sums up what came of deaths and lost answers.
func (r backendRow) retry() string {
	if len(r.Crashes) == 0 {
		return cmp.Or(r.Retry, notTried)
	}
	same, stuck := 0, 0
	for _, d := range r.Crashes {
		switch d.got {
		case theSame:
			same++
		case isStuck:
			stuck++
		}
	}
	text := fmt.Sprintf("%s: of %d accidents %d ended with one certificate, which the device has", r.Describe, len(r.Crashes), same)
	if stuck > 0 {
		text += fmt.Sprintf(", %d with the operator, and none was asked for twice", stuck)
	}
	return text
}

// died is the row of the second table.
func (r backendRow) died() []string {
	cells := []string{r.Backend, r.Describe}
	for _, column := range crashColumns[2:] {
		cell := notTried
		if d, ok := r.Crashes[column]; ok {
			cell = fmt.Sprintf("%d / %s", d.certificates, d.got)
		}
		cells = append(cells, cell)
	}
	return cells
}

// describes is what the running plugin of a gateway's backend says of idempotency: native, lookup or none.
func describes(g *running.Gateway, name string) string {
	g.T.Helper()
	var status struct {
		Backends []struct{ Name, Idempotency string }
	}
	if err := json.Unmarshal([]byte(g.Muster("status", "--json")), &status); err != nil {
		g.T.Fatal(err)
	}
	for _, b := range status.Backends {
		if b.Name == name && b.Idempotency != "" {
			return b.Idempotency
		}
	}
	g.T.Fatalf("there is no backend %s: %+v", name, status)
	return ""
}

// printTable writes the rows as Markdown, sorted: what each CA did, what came of deaths and lost answers, and then the command of each.
func printTable(w io.Writer) {
	table.mu.Lock()
	defer table.mu.Unlock()
	if len(table.rows) == 0 {
		return
	}
	slices.SortFunc(table.rows, func(a, b backendRow) int { return strings.Compare(a.Backend, b.Backend) })
	line := func(cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	print := func(columns []string, cells func(backendRow) []string) {
		line(columns)
		line(slices.Repeat([]string{"---"}, len(columns)))
		for _, r := range table.rows {
			line(cells(r))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "\nWhat each CA did:\n\n")
	print(factColumns, backendRow.facts)
	fmt.Fprintf(w, "Where the gateway was killed, or the CA's answer lost: certificates at the CA / what the device got.\n\n")
	print(crashColumns, backendRow.died)
	for _, r := range table.rows {
		fmt.Fprintf(w, "%s: %s\n", r.Backend, r.Command)
	}
}
