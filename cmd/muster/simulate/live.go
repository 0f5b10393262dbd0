package simulate

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/muster-pki/muster/cmd/muster/words"
)

// lineEvery is how often a line is written where there is no terminal.
const lineEvery = 5 * time.Second

// barWidth is how wide the bar is on a terminal that has room for it: devices whose fate is known, of all.
const barWidth = 20

// Live shows how a run gets on: on a terminal in one line, else by a line every five seconds.
type Live struct {
	W     io.Writer
	Width int // of the terminal; 0: it is none
	last  time.Duration
	drawn bool
}

// Show is a Watch's.
func (l *Live) Show(s Standing) {
	if s.Finished {
		if l.drawn {
			fmt.Fprintf(l.W, "\r%s\r", strings.Repeat(" ", max(l.Width-1, 0)))
		}
		l.last, l.drawn = 0, false
		return
	}
	if l.Width == 0 && s.Elapsed-l.last < lineEvery {
		return
	}
	l.last = s.Elapsed
	said := fmt.Sprintf("%s: %s  %d of %d issued, %d/s, %d waiting, %d asking, %d turned away, %s", s.Phase, span(s.Elapsed.Truncate(time.Second).Seconds()), s.Issued,
		s.Devices, s.Rate, s.Waiting, s.Asking, s.Away, millis(float64(s.Latency.Milliseconds())))
	if s.Failed > 0 {
		said += fmt.Sprintf(", %d failed", s.Failed)
	}
	if l.Width == 0 {
		fmt.Fprintln(l.W, said)
		return
	}
	if l.Width >= 4*barWidth && s.Devices > 0 {
		filled := (s.Issued + s.Failed) * barWidth / s.Devices
		said = "[" + strings.Repeat("#", filled) + strings.Repeat(".", barWidth-filled) + "] " + said
	}
	fmt.Fprintf(l.W, "\r%-*s", max(l.Width-1, 0), words.Cut(said, max(l.Width-1, 0)))
	l.drawn = true
}
