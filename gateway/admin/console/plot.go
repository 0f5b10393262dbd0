package console

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/muster-pki/muster/gateway/admin"
)

// outcomes are what the states of requests come to, in the order in which they are stacked.
var outcomes = []struct{ name, class string }{
	{"issued", "issued"}, {"waiting", "waiting"}, {"refused", "refused"}, {"refused, not authenticated", "stranger"},
}

func outcomeOf(c *admin.OverviewCount) int {
	switch c.State {
	case "issued", "revoked": // a request to revoke that was carried out
		return 0
	case "refused", "denied", "rejected", "failed":
		if c.Remembered {
			return 3
		}
		return 2
	}
	return 1
}

// chart is a bar chart, ready to be drawn: an SVG of 400 by 150 units, and the same as a table.
type chart struct {
	Title  string
	Label  string // what it says in one sentence, for who does not see it
	Bars   []bar
	Ticks  []tick // along the bottom
	Levels []level
	Legend []mark
	Head   []string // of the table
	Rows   [][]string
	Total  int64
}

type bar struct {
	X, Y, W, H float64
	Class      string
	Says       string
}

type tick struct {
	X      float64
	Text   string
	Anchor string
}

type level struct {
	Y    float64
	Text string
}

type mark struct {
	Class, Name string
	Count       int64
}

// The frame of a chart in its units.
const (
	plotLeft, plotTop, plotWidth, plotHeight = 34.0, 8.0, 362.0, 116.0
)

// levels are round numbers up to the highest bar, and the value of a chart's top.
func levels(most int64) (all []level, top int64) {
	step := int64(1)
	for most > 4*step {
		for _, next := range []int64{2, 5, 10} {
			if most <= 4*step*next || next == 10 {
				step *= next
				break
			}
		}
	}
	top = max((most+step-1)/step*step, step)
	for n := int64(0); n <= top; n += step {
		all = append(all, level{plotTop + plotHeight*(1-float64(n)/float64(top)), count(n)})
	}
	return all, top
}

// count is a number, short.
func count(n int64) string {
	switch {
	case n >= 10_000_000:
		return strconv.FormatInt(n/1_000_000, 10) + "M"
	case n >= 1_000_000:
		return strconv.FormatFloat(float64(n/100_000)/10, 'f', -1, 64) + "M"
	case n >= 10_000:
		return strconv.FormatInt(n/1000, 10) + "k"
	}
	return strconv.FormatInt(n, 10)
}

// stack draws columns of stacked bars.
func (c *chart) stack(columns [][]int64, classes []string, says func(column, part int) string) {
	var most int64
	for _, parts := range columns {
		var sum int64
		for _, n := range parts {
			sum += n
		}
		most = max(most, sum)
	}
	var top int64
	c.Levels, top = levels(most)
	width := plotWidth / float64(len(columns))
	for i, parts := range columns {
		y := plotTop + plotHeight
		for k, n := range parts {
			if n == 0 {
				continue
			}
			h := max(plotHeight*float64(n)/float64(top), 1)
			y -= h
			c.Bars = append(c.Bars, bar{X: plotLeft + float64(i)*width + width*0.1, Y: y, W: width * 0.8, H: h, Class: classes[k], Says: says(i, k)})
		}
	}
}

// ticks writes up to five labels along the bottom.
func (c *chart) ticks(n int, text func(i int) string) {
	width := plotWidth / float64(n)
	every := max(n/4, 1)
	for i := 0; i < n; i += every {
		anchor := "middle"
		if i == 0 {
			anchor = "start"
		}
		x := plotLeft + (float64(i)+0.5)*width
		if i == 0 {
			x = plotLeft
		}
		if x > plotLeft+plotWidth-14 {
			continue
		}
		c.Ticks = append(c.Ticks, tick{x, text(i), anchor})
	}
}

// charts are one for each protocol that was asked for anything.
func charts(o *admin.Overview) (all []chart) {
	step := time.Duration(o.Step) * time.Second
	var protocols []string
	for _, c := range o.Requests {
		if !slices.Contains(protocols, c.Protocol) {
			protocols = append(protocols, c.Protocol)
		}
	}
	slices.Sort(protocols)
	for _, protocol := range protocols {
		columns := make([][]int64, o.Steps)
		for i := range columns {
			columns[i] = make([]int64, len(outcomes))
		}
		var sums [4]int64
		c := chart{Title: title(protocol)}
		for i := range o.Requests {
			r := &o.Requests[i]
			at := int(r.From.Sub(o.From) / step)
			if r.Protocol != protocol || at < 0 || at >= o.Steps {
				continue
			}
			k := outcomeOf(r)
			columns[at][k] += r.Count
			sums[k] += r.Count
			c.Total += r.Count
		}
		var classes []string
		for k, is := range outcomes {
			classes = append(classes, is.class)
			if sums[k] > 0 {
				c.Legend = append(c.Legend, mark{is.class, is.name, sums[k]})
			}
		}
		when := func(i int) string {
			at := o.From.Add(time.Duration(i) * step)
			if step < 24*time.Hour {
				return at.Format("01-02 15:04")
			}
			return at.Format("01-02")
		}
		c.stack(columns, classes, func(i, k int) string { return fmt.Sprintf("%s: %d %s", when(i), columns[i][k], outcomes[k].name) })
		c.ticks(o.Steps, func(i int) string {
			at := o.From.Add(time.Duration(i) * step)
			if step < 6*time.Hour {
				return at.Format("15:04")
			}
			return at.Format("01-02")
		})
		c.Head = []string{"From (UTC)"}
		for _, is := range outcomes {
			c.Head = append(c.Head, is.name)
		}
		for i, parts := range columns {
			row := []string{when(i)}
			some := false
			for _, n := range parts {
				row = append(row, strconv.FormatInt(n, 10))
				some = some || n > 0
			}
			if some {
				c.Rows = append(c.Rows, row)
			}
		}
		c.Label = fmt.Sprintf("%s: %d requests", c.Title, c.Total)
		for _, m := range c.Legend {
			c.Label += fmt.Sprintf(", %d %s", m.Count, m.Name)
		}
		all = append(all, c)
	}
	return all
}

// endings is the calendar of certificates that end.
func endings(o *admin.Overview) chart {
	step := time.Duration(o.EndStep) * time.Second
	c := chart{Title: "Certificates that end, by week", Head: []string{"Week from (UTC)", "Certificates"}}
	columns := make([][]int64, len(o.Ending))
	when := func(i int) string { return o.Ends.Add(time.Duration(i) * step).UTC().Format(time.DateOnly) }
	for i, n := range o.Ending {
		columns[i] = []int64{n}
		c.Total += n
		if n > 0 {
			c.Rows = append(c.Rows, []string{when(i), strconv.FormatInt(n, 10)})
		}
	}
	if len(columns) == 0 {
		return c
	}
	c.stack(columns, []string{"ending"}, func(i, _ int) string { return fmt.Sprintf("week from %s: %d", when(i), o.Ending[i]) })
	c.ticks(len(columns), func(i int) string { return o.Ends.Add(time.Duration(i) * step).UTC().Format("01-02") })
	c.Label = fmt.Sprintf("%d certificates end within %d weeks, %d of them in the first week", c.Total, len(columns), o.Ending[0])
	return c
}

// title is a protocol's name.
func title(protocol string) string {
	return map[string]string{"cmp": "CMP", "est": "EST", "scep": "SCEP", "mdm": "MDM (profile service)"}[protocol]
}
