//go:build bench

package bench

import (
	"fmt"
	"html"
	"strings"
)

// bars is a plot of horizontal bars, as SVG: each is a value with the part of it that is cryptography, darker, and the value in words.
type bars struct {
	title, unit string
	rows        []bar
}

type bar struct {
	name        string
	value, part float64
	said        string
	peer        bool
}

const (
	plotWidth = 760
	nameWidth = 230
	rowHeight = 24
)

// svg looks the same on light and dark paper: its text has the colour of neither.
func (p *bars) svg() string {
	most := 0.0
	for _, r := range p.rows {
		most = max(most, r.value)
	}
	scale := float64(plotWidth-nameWidth-150) / max(most, 1e-9)
	height := 44 + rowHeight*len(p.rows) + 22
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" font-family="sans-serif" font-size="13" fill="#777">`+"\n",
		plotWidth, height, plotWidth, height)
	fmt.Fprintf(&b, `<title>%s</title>`+"\n"+`<text x="0" y="16" font-weight="bold" font-size="15">%s</text>`+"\n", html.EscapeString(p.title), html.EscapeString(p.title))
	y := 32
	for _, r := range p.rows {
		colour := "#4c8dc9"
		if r.peer {
			colour = "#b9a06b"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, nameWidth-8, y+16, html.EscapeString(r.name))
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, nameWidth, y+3, r.value*scale, rowHeight-6, colour)
		if r.part > 0 {
			fmt.Fprintf(&b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="#000" fill-opacity=".35"/>`, nameWidth, y+3, min(r.part, r.value)*scale, rowHeight-6)
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%d">%s</text>`+"\n", float64(nameWidth)+r.value*scale+6, y+16, html.EscapeString(r.said))
		y += rowHeight
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" font-size="11">%s</text>`+"\n</svg>\n", nameWidth, y+18, html.EscapeString(p.unit))
	return b.String()
}
