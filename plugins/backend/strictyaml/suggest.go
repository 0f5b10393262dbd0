package strictyaml

import (
	"strconv"
	"strings"
)

// Suggest returns what a message about the unknown name got can add: ` (did you mean "x"?)`, or, when nothing known
// is near, ` (known: a, b, c)`; "" when nothing is known.
func Suggest(got string, known []string) string {
	if near := Nearest(got, known); near != "" {
		return " (did you mean " + strconv.Quote(near) + "?)"
	}
	if len(known) == 0 {
		return ""
	}
	return " (known: " + strings.Join(known, ", ") + ")"
}

// Nearest returns the known name with the smallest edit distance to got, or "" when none is near enough to have been
// meant. Case, hyphens and underscores count as nothing.
func Nearest(got string, known []string) string {
	if len(got) > 64 {
		return ""
	}
	best, least := "", 1<<30
	for _, k := range known {
		if len(k) > 64 {
			continue
		}
		if d := distance(fold(got), fold(k)); d < least {
			best, least = k, d
		}
	}
	if limit := max(1, (len(got)+1)/3); least > limit || least >= len(fold(best)) {
		return ""
	}
	return best
}

func fold(s string) string {
	return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s))
}

// distance counts insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
