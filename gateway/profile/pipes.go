package profile

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/template/parse"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// pipe changes a value. It is given the error of what came before and passes it on, but for default.
type pipe func(text string, err error) (string, error)

// pipeNames lists what parsePipe knows, and optional, which belongs to the whole action.
var pipeNames = []string{"lower", "upper", "trim", "default", "prefix", "suffix", "part", "replace", "hex", "match", "optional"}

// parsePipe reads a command behind a |.
func parsePipe(c *parse.CommandNode) (pipe, error) {
	id, ok := c.Args[0].(*parse.IdentifierNode)
	if !ok {
		return nil, fmt.Errorf("%s is no pipe (known: %s)", c.Args[0], strings.Join(pipeNames, ", "))
	}
	name, nodes := id.Ident, c.Args[1:]
	n := 0
	if name == "part" && len(nodes) > 0 {
		number, ok := nodes[0].(*parse.NumberNode)
		if !ok || !number.IsInt || number.Int64 == 0 || number.Int64 < -maxStep || number.Int64 > maxStep {
			return nil, errors.New(`part wants a number and a separator: part 1 "-"; the last part is -1`)
		}
		n, nodes = int(number.Int64), nodes[1:]
	}
	args, err := texts(nodes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	wants := map[string]int{"lower": 0, "upper": 0, "trim": 0, "hex": 0, "default": 1, "prefix": 1, "suffix": 1, "part": 1, "match": 1, "replace": 2}
	count, known := wants[name]
	if !known {
		return nil, fmt.Errorf("there is no pipe %q%s", name, strictyaml.Suggest(name, pipeNames))
	}
	if len(args) != count || name == "part" && n == 0 {
		return nil, fmt.Errorf("%s is written %s", name, map[string]string{
			"lower": "lower", "upper": "upper", "trim": "trim", "hex": "hex", "default": `default "x"`, "prefix": `prefix "x"`,
			"suffix": `suffix "x"`, "part": `part 1 "-"`, "match": `match "regular expression"`, "replace": `replace "from" "to"`,
		}[name])
	}
	switch name {
	case "lower":
		return mapped(strings.ToLower), nil
	case "upper":
		return mapped(strings.ToUpper), nil
	case "trim":
		return mapped(strings.TrimSpace), nil
	case "hex":
		return mapped(func(s string) string { return hex.EncodeToString([]byte(s)) }), nil
	case "prefix":
		return mapped(func(s string) string { return args[0] + s }), nil
	case "suffix":
		return mapped(func(s string) string { return s + args[0] }), nil
	case "default":
		return byDefault(args[0])
	case "part":
		return partOf(n, args[0])
	case "replace":
		return replacing(args[0], args[1])
	default:
		return matching(args[0])
	}
}

// mapped makes a pipe of a function. What is empty stays so: `prefix` alone is no name.
func mapped(f func(string) string) pipe {
	return func(s string, err error) (string, error) {
		if err != nil || s == "" {
			return "", err
		}
		return f(s), nil
	}
}

func byDefault(text string) (pipe, error) {
	if text == "" {
		return nil, errors.New("default: the text is empty: leave the pipe out, or write optional")
	}
	return func(s string, err error) (string, error) {
		if _, missing := errors.AsType[*absent](err); missing || err == nil && s == "" {
			return text, nil
		}
		return s, err
	}, nil
}

func partOf(n int, separator string) (pipe, error) {
	if separator == "" {
		return nil, errors.New("part: the separator is empty")
	}
	return func(s string, err error) (string, error) {
		if err != nil {
			return "", err
		}
		all := strings.Split(s, separator)
		i := n - 1
		if n < 0 {
			i = len(all) + n
		}
		if i < 0 || i >= len(all) {
			return "", &absent{fmt.Sprintf("%s has no part %d between %q", shown(s), n, separator)}
		}
		return all[i], nil
	}, nil
}

func replacing(from, to string) (pipe, error) {
	if from == "" {
		return nil, errors.New("replace: what is to be replaced is empty")
	}
	return func(s string, err error) (string, error) {
		if err != nil {
			return "", err
		}
		if len(s)+strings.Count(s, from)*len(to) > maxStep {
			return "", fmt.Errorf("replace makes over %d bytes", maxStep)
		}
		return strings.ReplaceAll(s, from, to), nil
	}, nil
}

// matching gives the first group of the pattern, all that matched when it has none.
func matching(pattern string) (pipe, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("match: the pattern has %d bytes, at most %d are taken", len(pattern), maxPattern)
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("match: %w", err)
	}
	if re.NumSubexp() > 1 {
		return nil, errors.New("match: one group at most; (?:...) groups without counting")
	}
	return func(s string, err error) (string, error) {
		if err != nil {
			return "", err
		}
		m := re.FindStringSubmatch(s)
		if m == nil {
			return "", &absent{fmt.Sprintf("%s does not match %s", shown(s), re)}
		}
		return m[len(m)-1], nil
	}, nil
}

// shown quotes a value for messages, cut to a length that a line takes.
func shown(s string) string {
	if len(s) > 80 {
		return strconv.QuoteToASCII(s[:80]) + "..."
	}
	return strconv.Quote(s)
}
