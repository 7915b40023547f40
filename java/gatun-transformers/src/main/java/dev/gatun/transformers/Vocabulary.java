package dev.gatun.transformers;

import java.util.ArrayList;
import java.util.BitSet;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import org.jspecify.annotations.Nullable;

/** Tokens by id and ids by token; each exactly once. Ids may have gaps. */
final class Vocabulary {

    /** Larger ids are a broken file, not a vocabulary: tables are as long as the largest id. */
    static final int LARGEST_ID = (1 << 22) - 1;

    private final List<@Nullable String> tokens = new ArrayList<>();
    private final Map<String, Integer> ids = new HashMap<>();
    private final BitSet special = new BitSet();
    private final BitSet outsideModel = new BitSet();

    /**
     * Adds a token.
     *
     * @throws IllegalArgumentException if the id or the token is taken, the id out of range or the
     *     token empty
     */
    void add(String token, long id) {
        if (token.isEmpty()) {
            throw new IllegalArgumentException("the token with id " + id + " is empty");
        }
        if (id < 0 || id > LARGEST_ID) {
            throw new IllegalArgumentException(
                    "token '%s' has id %d: ids are 0 to %d".formatted(token, id, LARGEST_ID));
        }
        String other = find((int) id);
        if (other != null) {
            throw new IllegalArgumentException(
                    "tokens '%s' and '%s' both have id %d".formatted(other, token, id));
        }
        Integer earlier = ids.putIfAbsent(token, (int) id);
        if (earlier != null) {
            throw new IllegalArgumentException(
                    "token '%s' has two ids, %d and %d".formatted(token, earlier, id));
        }
        while (tokens.size() <= id) {
            tokens.add(null);
        }
        tokens.set((int) id, token);
    }

    void markSpecial(int id) {
        special.set(id);
    }

    /** Says that a token is one of added_tokens only: no merge makes it. */
    void markOutsideModel(int id) {
        outsideModel.set(id);
    }

    boolean isOutsideModel(int id) {
        return outsideModel.get(id);
    }

    boolean isSpecial(int id) {
        return id >= 0 && special.get(id);
    }

    /** One more than the largest id. */
    int size() {
        return tokens.size();
    }

    OptionalInt idOf(String token) {
        Integer id = ids.get(token);
        return id == null ? OptionalInt.empty() : OptionalInt.of(id);
    }

    /** The token, or null where no token has this id. */
    @Nullable String find(int id) {
        return id >= 0 && id < tokens.size() ? tokens.get(id) : null;
    }

    String token(int id) {
        String token = find(id);
        if (token == null) {
            throw new IllegalArgumentException(
                    "token id %d is not in the vocabulary of %d".formatted(id, size()));
        }
        return token;
    }
}
