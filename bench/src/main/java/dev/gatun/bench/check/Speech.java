package dev.gatun.bench.check;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What a part tells the check over its standard output: Markdown, and lines that begin with a word
 * of this class and are counted.
 */
final class Speech {
    static final String WRONG = "@@wrong ";
    static final String NOT_RUN = "@@not-run ";
    static final String FIGURE = "@@figure ";
    static final String AT = "@@at ";

    /**
     * The exit code of a part that must go on in a new process, since the GPU serves this no more.
     */
    static final int GO_ON = 3;

    private static final ObjectMapper JSON = new ObjectMapper();

    private Speech() {}

    static void say(String markdown) {
        System.out.println(markdown);
        System.out.flush();
    }

    static void wrong(String what) {
        say(WRONG + oneLine(what));
    }

    static void notRun(String what) {
        say(NOT_RUN + oneLine(what));
    }

    /** Work on item {@code index} begins; should this process die, the next goes on behind it. */
    static void at(int index, String name) {
        say(AT + index + " " + name);
    }

    /** Ends this process, whose GPU no longer answers; the next one goes on behind this item. */
    static void goOn() {
        System.out.flush();
        Runtime.getRuntime().halt(GO_ON); // closing the device would only throw
    }

    /** A measured value; null is left out. */
    static void figure(String name, Map<String, @Nullable Object> values) {
        Map<String, Object> all = new LinkedHashMap<>();
        all.put("name", name);
        values.forEach((key, value) -> {
            if (value != null) {
                all.put(key, value);
            }
        });
        try {
            say(FIGURE + JSON.writeValueAsString(all));
        } catch (JsonProcessingException e) {
            throw new IllegalStateException(e);
        }
    }

    static String sentence(Throwable e) {
        String message = e.getMessage();
        return message == null || message.isBlank() ? e.toString() : message;
    }

    private static String oneLine(String text) {
        return text.strip().replaceAll("\\s*\\R\\s*", "; ");
    }
}
