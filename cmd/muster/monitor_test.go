package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"gopkg.in/yaml.v3"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
)

// told is a metric as a registry describes it.
type toldMetric struct {
	labels []string // sorted
	help   string
	kind   string // of the documentation: counter, gauge or histogram
}

var described = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "(.*?)"(?:, unit: ".*")?, constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// registered are the gateway's own metrics: all that a process registers.
func registered(t *testing.T) (map[string]toldMetric, *prometheus.Registry) {
	t.Helper()
	dir := t.TempDir()
	p, err := newProcess(dir, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if p.store, err = store.Open(t.Context(), "sqlite:"+dir+"/muster.db", store.Options{Instance: "test"}); err != nil {
		t.Fatal(err)
	}
	if err := p.registerStore(); err != nil {
		t.Fatal(err)
	}
	if p.gateway, err = gateway.New(gateway.Options{Store: p.store, Clock: p.clock, Log: p.log, Metrics: p.registry}); err != nil {
		t.Fatal(err)
	}
	if err := p.openAdmin(); err != nil {
		t.Fatal(err)
	}
	descs := make(chan *prometheus.Desc)
	go func() { p.registry.Describe(descs); close(descs) }()
	all := map[string]toldMetric{}
	for d := range descs {
		m := described.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("not understood: %s", d)
		}
		var labels []string
		if m[4] != "" {
			labels = strings.Split(m[4], ",")
			slices.Sort(labels)
		}
		if name, _, constant := strings.Cut(m[3], "="); constant {
			labels = append(labels, name)
		}
		all[m[1]] = toldMetric{labels: labels, help: strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(m[2])}
	}
	return all, p.registry
}

var documentedRow = regexp.MustCompile("(?m)^\\| `(muster_[a-z0-9_]+)` \\| (counter|gauge|histogram) \\| (.*?) \\| (.*) \\|$")

// documented is the table of docs/monitoring.md.
func documented(t *testing.T) map[string]toldMetric {
	t.Helper()
	page, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]toldMetric{}
	for _, row := range documentedRow.FindAllStringSubmatch(string(page), -1) {
		var labels []string
		if row[3] != "" {
			labels = strings.Split(strings.ReplaceAll(row[3], "`", ""), ", ")
			slices.Sort(labels)
		}
		if _, twice := all[row[1]]; twice {
			t.Errorf("%s stands twice", row[1])
		}
		all[row[1]] = toldMetric{labels, row[4], row[2]}
	}
	return all
}

// The page's table is what the gateway has, word by word, and the names are as Prometheus wants them.
func TestMetricsAreDocumented(t *testing.T) {
	has, registry := registered(t)
	page := documented(t)
	var families []*dto.MetricFamily
	for _, name := range slices.Sorted(maps.Keys(has)) {
		if !strings.HasPrefix(name, "muster_") { // of Go, the process and database/sql
			continue
		}
		m, doc := has[name], page[name]
		kind := doc.kind
		if kind == "" {
			kind = "KIND"
		}
		if !slices.Equal(m.labels, doc.labels) || m.help != doc.help {
			quoted := ""
			if len(m.labels) > 0 {
				quoted = "`" + strings.Join(m.labels, "`, `") + "`"
			}
			t.Errorf("docs/monitoring.md lacks\n| `%s` | %s | %s | %s |", name, kind, quoted, m.help)
		}
		typ := dto.MetricType(dto.MetricType_value[strings.ToUpper(kind)])
		families = append(families, &dto.MetricFamily{Name: &name, Help: &m.help, Type: &typ})
	}
	for name := range page {
		if _, ok := has[name]; !ok {
			t.Errorf("docs/monitoring.md has %s, the gateway does not", name)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
	gathered, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range gathered {
		if doc, ok := page[f.GetName()]; ok && doc.kind != strings.ToLower(f.GetType().String()) {
			t.Errorf("%s is a %s, the page says %s", f.GetName(), f.GetType(), doc.kind)
		}
	}
}

// queried are what a query may name beside metrics.
var (
	queryFunctions = strings.Fields("sum max min avg count topk rate increase histogram_quantile by without on ignoring group_left group_right time clamp_min and or unless bool absent changes le vector")
	queryToken     = regexp.MustCompile(`"[^"]*"|\$\{?[A-Za-z_]+\}?|\[[^\]]*\]|[A-Za-z_:][A-Za-z0-9_:]*|[0-9][0-9a-z.]*|[{}()=~!,]`)
	ofTargets      = []string{"job", "instance"}
)

// wrongIn says what a query names that is not there: metrics, their labels, functions.
func wrongIn(query string, has map[string]toldMetric) (wrong []string) {
	known := slices.Clone(ofTargets) // labels, of all metrics of the query
	of := func(name string) (labels []string, ok bool) {
		m, ok := has[name]
		if ok && m.kind != "histogram" {
			return m.labels, true
		}
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			base, cut := strings.CutSuffix(name, suffix)
			if m, ok := has[base]; cut && ok && m.kind == "histogram" {
				if suffix == "_bucket" {
					return append(slices.Clone(m.labels), "le"), true
				}
				return m.labels, true
			}
		}
		return nil, name == "up"
	}
	tokens := queryToken.FindAllString(query, -1)
	for _, tok := range tokens {
		if labels, ok := of(tok); ok {
			known = append(known, labels...)
		}
	}
	var labels []string // that may stand in the braces; nil outside
	grouping, braces := false, false
	last := ""
	for _, tok := range tokens {
		word := tok[0] == '_' || tok[0] >= 'a' && tok[0] <= 'z' || tok[0] >= 'A' && tok[0] <= 'Z'
		switch {
		case tok == "{":
			braces = true
			l, _ := of(last)
			labels = append(slices.Clone(ofTargets), l...)
		case tok == "}":
			braces = false
		case tok == "(" && slices.Contains([]string{"by", "without", "on", "ignoring"}, last):
			grouping = true
		case tok == ")":
			grouping = false
		case !word:
		case braces && !slices.Contains(labels, tok), grouping && !slices.Contains(known, tok):
			wrong = append(wrong, "label "+tok)
		case braces || grouping:
		case slices.Contains(queryFunctions, tok):
		default:
			if _, ok := of(tok); !ok {
				wrong = append(wrong, tok)
			}
		}
		last = tok
	}
	return wrong
}

func TestWrongIn(t *testing.T) {
	has := map[string]toldMetric{"muster_a_total": {labels: []string{"x"}, kind: "counter"}, "muster_b_seconds": {labels: []string{"y"}, kind: "histogram"}}
	for query, want := range map[string]string{
		`sum by (x) (rate(muster_a_total{x="1",job=~"$job"}[5m])) > 0.5`:                             "[]",
		`histogram_quantile(0.99, sum by (le, y) (rate(muster_b_seconds_bucket[$__rate_interval])))`: "[]",
		`rate(muster_c_total[5m])`:        "[muster_c_total]",
		`rate(muster_a_total{y="1"}[5m])`: "[label y]",
		`sum by (y) (muster_a_total)`:     "[label y]",
		`muster_b_seconds`:                "[muster_b_seconds]",
		`muster_a_total{le="1"}`:          "[label le]",
		`rat(muster_a_total[5m])`:         "[rat]",
	} {
		if got := fmt.Sprint(wrongIn(query, has)); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
}

// Dashboard and alerts ask for nothing that is not there.
func TestDashboardAndRules(t *testing.T) {
	has, _ := registered(t)
	for name, doc := range documented(t) {
		m := has[name]
		m.kind = doc.kind
		has[name] = m
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Definition string }
		}
	}
	read := func(path string, decode func([]byte) error) {
		t.Helper()
		data, err := os.ReadFile("../../configs/deploy/" + path)
		if err == nil {
			err = decode(data)
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	queries := 0
	check := func(what, query string) {
		queries++
		for _, wrong := range wrongIn(query, has) {
			t.Errorf("%s: %s\nthere is no %s", what, query, wrong)
		}
	}
	read("grafana/muster.json", func(data []byte) error { return json.Unmarshal(data, &dashboard) })
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			check("panel "+p.Title, target.Expr)
		}
	}
	for _, v := range dashboard.Templating.List {
		query, _, found := strings.Cut(strings.TrimPrefix(v.Definition, "label_values("), ", ")
		if found {
			check("variable", query)
		}
	}
	if queries < 35 {
		t.Errorf("%d queries in the dashboard", queries)
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	read("prometheus/muster.rules.yaml", func(data []byte) error { return yaml.Unmarshal(data, &rules) })
	page, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	queries = 0
	for _, r := range rules.Groups[0].Rules {
		check("alert "+r.Alert, r.Expr)
		if !strings.Contains(string(page), r.Alert) {
			t.Errorf("docs/monitoring.md does not say what to do at %s", r.Alert)
		}
	}
	if queries < 10 {
		t.Errorf("%d rules", queries)
	}
}
