import java.util.HashMap;
import java.util.Map;

/** -name value, in any order. */
final class Options {
    private final Map<String, String> values = new HashMap<>();

    Options(String[] args, int from) {
        for (int i = from; i + 1 < args.length; i += 2) {
            Say.must(args[i].startsWith("-"), "no option: " + args[i]);
            values.put(args[i].substring(1), args[i + 1]);
        }
    }

    String get(String name) {
        return values.get(name);
    }

    String get(String name, String otherwise) {
        return values.getOrDefault(name, otherwise);
    }

    String need(String name) {
        Say.must(values.containsKey(name), "-" + name + " is missing");
        return values.get(name);
    }

    boolean has(String name) {
        return values.containsKey(name);
    }

    /** These options with one changed. */
    Options with(String name, String value) {
        Options o = new Options(new String[0], 0);
        o.values.putAll(values);
        o.values.put(name, value);
        return o;
    }

    Options without(String name) {
        Options o = new Options(new String[0], 0);
        o.values.putAll(values);
        o.values.remove(name);
        return o;
    }
}
