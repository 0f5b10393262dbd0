package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// insertRows is how many rows one statement writes.
const insertRows = 50

// queryIn runs a query that ends with a list of values.
func queryIn(ctx context.Context, q querier, query string, in []string, row func(scan func(...any) error) error) error {
	rows, err := q.QueryContext(ctx, query+places(1, make([]string, len(in))...), anys(in)...)
	if err == nil {
		err = each(rows, row)
	}
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	return nil
}

// eachMany runs a statement for n rows, many at once. Of each column casts has the type to cast it to, "" where the database
// knows; row appends the parameters of one row.
func (u unit) eachMany(head, tail string, casts []string, n int, row func(args []any, n int) ([]any, error)) error {
	args := make([]any, 0, insertRows*len(casts))
	run := func(from, to int, exec func(args ...any) error) (err error) {
		args = args[:0]
		for i := from; i < to; i++ {
			if args, err = row(args, i); err != nil {
				return err
			}
		}
		return exec(args...)
	}
	at := 0
	if n >= insertRows {
		many, err := u.tx.PrepareContext(u.ctx, head+places(insertRows, casts...)+tail)
		if err != nil {
			return err
		}
		defer many.Close()
		for ; at+insertRows <= n; at += insertRows {
			if err := run(at, at+insertRows, func(args ...any) error { _, err := many.ExecContext(u.ctx, args...); return err }); err != nil {
				return err
			}
		}
	}
	if at == n {
		return nil
	}
	return run(at, n, func(args ...any) error { _, err := u.run(head+places(n-at, casts...)+tail, args...); return err })
}

// places is ($1, $2), ($3, $4) for two rows of two columns.
func places(rows int, casts ...string) string {
	var b strings.Builder
	n := 0
	for r := range rows {
		if r > 0 {
			b.WriteString(", ")
		}
		for c, cast := range casts {
			n++
			place := "$" + strconv.Itoa(n)
			if cast != "" {
				place = "CAST(" + place + " AS " + cast + ")"
			}
			b.WriteString([]string{", ", "("}[bit(c == 0)] + place)
		}
		b.WriteString(")")
	}
	return b.String()
}

func anys(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}
